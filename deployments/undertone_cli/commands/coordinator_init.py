"""`undertone coordinator init`: a coordinator's own folder, its key, certificates and servers' configuration."""

from pathlib import Path

import click

from undertone.core.config import parse_tables
from undertone.core.keys import public_hex
from undertone.core.text import shown
from undertone.core.unit import is_site_name, name_advice
from undertone.errors import InputError
from undertone_cli.commands.coordinator_home import home_option
from undertone_cli.console import lines, out
from undertone_server.home.folder import Home, default_folder
from undertone_server.home.settings import Settings


@click.command("init")
@home_option
@click.option("--name", required=True, help="The federation's name, as sites will have it.")
@click.option("--fleet", required=True, metavar="https://HOST:PORT", help="Where sites reach this machine.")
@click.option("--superlink-port", type=int, default=9091, show_default=True, help="The SuperLink's, on loopback.")
@click.option("--health-port", type=int, default=9095, show_default=True, help="Its health check's, on loopback.")
@click.option("--certificate", type=click.Path(path_type=Path), help="A certificate of your own, PEM.")
@click.option("--certificate-key", type=click.Path(path_type=Path), help="Its private key, PEM, not encrypted.")
@click.option("--ca", type=click.Path(path_type=Path), help="The CA that signed it: one certificate, PEM.")
def command(
    folder: Path | None,
    name: str,
    fleet: str,
    superlink_port: int,
    health_port: int,
    certificate: Path | None,
    certificate_key: Path | None,
    ca: Path | None,
) -> None:
    """Make COORDINATOR_DIR: the signing key of all runs, a CA and a server certificate, SuperLink and nginx.

    Every key of coordinator.toml is explained in the file. Nothing is overwritten. Keep a backup of coordinator.key and
    of tls/ca.key, and nobody else near them.

    Example: undertone coordinator init --name heart --fleet https://hub.example.org:443
    """
    if not is_site_name(name):
        raise InputError(f'--name "{shown(name)}" cannot name a federation: {name_advice(name)}')
    own = {"certificate": certificate, "certificate_key": certificate_key, "ca": ca}
    if any(own.values()) and not all(own.values()):
        raise InputError("--certificate, --certificate-key and --ca go together: give all three, or none")
    ports = {"superlink_port": superlink_port, "health_port": health_port}
    paths = {key: str(path.absolute()) for key, path in own.items() if path is not None}
    settings = parse_tables(Settings, {"name": name, "fleet": fleet} | ports | paths, "coordinator.toml")
    home = Home.create(folder or default_folder(), settings)
    out.print(f"{name}: {home.folder} is made, readable by you alone", soft_wrap=True, markup=False)
    lines(
        [
            ("tell the sites this coordinator's public key", public_hex(home.key())),
            ("nginx", home.folder / "nginx" / "undertone.conf"),
            ("accept sites with", "undertone coordinator add-node REQUEST ..."),
            ("start the servers with", "undertone coordinator start"),
        ]
    )
