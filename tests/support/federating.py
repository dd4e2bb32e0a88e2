"""A coordinator's folder and some sites that have joined it, on disk, as the commands leave them."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from undertone.core.clock import utc_now
from undertone.privacy.entropy import OsEntropy
from undertone_cli.commands.node_join import write_request_file
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.joining import joining
from undertone_client.site.policy import Policy
from undertone_server.home.folder import Home
from undertone_server.home.membership import Change, add_sites, remove_site
from undertone_server.home.settings import Settings


@dataclass
class Hub:
    """A coordinator and the sites that it was asked to accept."""

    folder: Path
    home: Home
    sites: dict[str, Path] = field(default_factory=dict)

    def site(self, name: str) -> SiteDir:
        """A site, made when it is first named."""
        if name not in self.sites:
            self.sites[name] = self.folder / "sites" / name
            create_site(self.sites[name], NodeConfig(site=name), Policy(), OsEntropy())
        return SiteDir(self.sites[name])

    def request(self, name: str, *, new_keys: bool = False) -> bytes:
        """A site's request file."""
        file = self.folder / f"{name}.request"
        write_request_file(self.site(name), file, new_keys=new_keys)
        return file.read_bytes()

    def add(self, *names: str, now: datetime | None = None, replace: bool = False) -> Change:
        """Accept sites."""
        return add_sites(self.home, [self.request(name) for name in names], now or utc_now(), replace=replace)

    def remove(self, name: str) -> Change:
        """Take a site out."""
        return remove_site(self.home, name, utc_now())

    def join(self, name: str, welcome: bytes, called: str | None = None, now: datetime | None = None) -> SiteDir:
        """A site takes a welcome, as a person does who compares nothing."""
        joining(self.site(name), welcome, called, now or utc_now()).pin()
        return self.site(name)


def hub(
    folder: Path,
    name: str = "heart",
    fleet: str = "https://hub.example.org:8443",
    *,
    superlink_port: int = 9091,
    health_port: int = 9095,
) -> Hub:
    """A coordinator without sites."""
    folder.mkdir(exist_ok=True)
    settings = Settings(name=name, fleet=fleet, superlink_port=superlink_port, health_port=health_port)
    return Hub(folder, Home.create(folder / "home", settings))


def welcome_of(change: Change) -> bytes:
    """The file that a change wrote for the sites."""
    assert change.welcome is not None
    return change.welcome.read_bytes()
