"""Where sites reach the coordinator: https://HOST:PORT, over TLS alone."""

import ipaddress
import re
from dataclasses import dataclass

from undertone.core.text import shown
from undertone.errors import InputError

_ADDRESS = re.compile(r"https://(\[[0-9a-fA-F:.]+\]|[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?):([0-9]{1,5})")


@dataclass(frozen=True)
class FleetAddress:
    """A host name or an IP address, and a port.

    Attributes:
        host: without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "FleetAddress":
        """Read https://HOST:PORT.

        Raises:
            InputError: it is something else; says what to write.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or not 1 <= int(found[3]) <= 65535:
            raise InputError(
                f"{shown(text)} is no address of a coordinator; write https://HOST:PORT, such as "
                "https://hub.example.org:443, the host in small letters"
            )
        host = found[1].strip("[]")
        if found[1].startswith("[") and not isinstance(_ip(host), ipaddress.IPv6Address):
            raise InputError(f"{shown(text)} has no IPv6 address between its brackets")
        return cls(host, int(found[3]))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address, or None where it is a name."""
        return _ip(self.host)

    @property
    def authority(self) -> str:
        """HOST:PORT, as `flower-supernode --superlink` takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """https://HOST:PORT."""
        return f"https://{self.authority}"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
