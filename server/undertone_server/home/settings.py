"""coordinator.toml: facts about this coordinator that a person may change."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from undertone.core.config import Section
from undertone.core.fleet_address import FleetAddress
from undertone.core.unit import SiteName
from undertone.errors import InputError

Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=1, le=36_500)]
TlsFile = Annotated[str, Field(min_length=1, max_length=4096)]


class Settings(Section):
    """coordinator.toml: a path that is not absolute is one within COORDINATOR_DIR."""

    name: SiteName = Field(description="The federation's name, as manifests and sites have it.")
    fleet: str = Field(description="Where sites reach this coordinator: https://HOST:PORT, which nginx listens on.")
    superlink_port: Port = Field(
        default=9091,
        description="The SuperLink's port on 127.0.0.1. Everyone on this machine who reaches it can start and stop "
        "runs; nginx passes on what sites need and nothing else.",
    )
    health_port: Port = Field(default=9095, description="The SuperLink's health check (gRPC) on 127.0.0.1.")
    certificate: TlsFile = Field(default="tls/server.crt", description="The certificate that sites see.")
    certificate_key: TlsFile = Field(default="tls/server.key", description="Its private key.")
    ca: TlsFile = Field(
        default="tls/ca.crt",
        description="The CA certificate by which sites know the certificate; sites get it with their welcome, and "
        "manifests hold its fingerprint.",
    )
    ca_days: Days = Field(default=3650, description="How many days a CA certificate that is made here lasts.")
    certificate_days: Days = Field(default=397, description="How many days a certificate that is made here lasts.")
    manifest_days: Days = Field(
        default=365, description="How many days a federation manifest lasts; then sites refuse to take part."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            address = FleetAddress.parse(self.fleet)
        except InputError as error:
            raise ValueError(f"fleet: {error}") from None
        if len({self.superlink_port, self.health_port, address.port}) < 3:
            raise ValueError("superlink_port, health_port and the port of fleet must be three ports; change one")
        return self

    @property
    def address(self) -> FleetAddress:
        """The fleet address, parsed."""
        return FleetAddress.parse(self.fleet)
