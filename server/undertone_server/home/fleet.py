"""Which SuperNodes the SuperLink lets in: those of the sites that are in the federation, and no others.

The SuperLink keeps its own list of keys. `synchronise` makes it that of COORDINATOR_DIR, through the interface that
`flwr supernode register | unregister | list` use, on loopback.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from undertone.core.durable import read_bytes
from undertone.core.flower_keys import registered_form
from undertone.core.text import shown
from undertone.errors import SuperLinkUnreachable
from undertone_server.home.folder import Home
from undertone_server.home.membership import accepted

_GONE = "unregistered"


@dataclass
class Registered:
    """What `synchronise` did.

    Attributes:
        added: sites whose key the SuperLink now takes.
        removed: names under which it knew keys that no site has.
        kept: sites that it knew.
        refused: sites whose key it has unregistered once, and takes never again.
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def synchronise(home: Home) -> Registered:
    """Register each site's Flower key at the SuperLink, and unregister every key that no site has.

    Raises:
        SuperLinkUnreachable: it cannot be reached, or refuses; what was done before that stays.
        FolderError: a file of sites/ is damaged.
    """
    done = Registered()
    with _superlink(home) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
        # The sites are read after the list: one that another command adds meanwhile would else be unregistered.
        wanted = _names(home)
        gone = {node.public_key for node in nodes if node.status == _GONE}
        known = {node.public_key for node in nodes} - gone
        for node in nodes:
            if node.public_key in known - wanted.keys():
                client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                done.removed.append(shown(node.name or str(node.node_id), 80))
        for key, name in wanted.items():
            if key not in known | gone:
                client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            (done.kept if key in known else done.refused if key in gone else done.added).append(name)
    return done


def connections(home: Home) -> dict[str, str]:
    """Whether each site's SuperNode is connected, in Flower's words: registered (never was), online, offline.

    A site that the SuperLink does not know yet is "unregistered".

    Raises:
        SuperLinkUnreachable: it cannot be reached.
        FolderError: a file of sites/ is damaged.
    """
    with _superlink(home) as client:
        status = {node.public_key: node.status for node in client.ListNodes(ListNodesRequest()).nodes_info}
    return {name: shown(status.get(key, _GONE), 40) for key, name in _names(home).items()}


def _names(home: Home) -> dict[bytes, str]:
    """Each site's key as the SuperLink has it, with the site's name, in the order of the names."""
    return {registered_form(request.flower): name for name, request in accepted(home).items()}


@contextmanager
def _superlink(home: Home) -> Iterator[ControlHttpClient]:
    """The SuperLink's interface for its operator, on loopback.

    Raises:
        SuperLinkUnreachable: it cannot be reached, or refuses.
    """
    _no_proxy_between(home)
    client = ControlHttpClient.from_server_address(
        f"127.0.0.1:{home.settings.superlink_port}",
        insecure=False,
        root_certificates=read_bytes(home.loopback_ca),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield client
    except (httpx.HTTPError, ValueError) as error:
        raise SuperLinkUnreachable(
            f"the SuperLink on 127.0.0.1:{home.settings.superlink_port} does not answer as it should: "
            f"{shown(str(error) or type(error).__name__)}; start it with `undertone coordinator start`, which also "
            "registers what is not registered yet"
        ) from None
    finally:
        client.close()


def _no_proxy_between(home: Home) -> None:
    """Flower's client asks the environment for a proxy when it is made; on loopback there must be none."""
    direct = home.flower_environment()
    os.environ.update({name: direct[name] for name in ("NO_PROXY", "no_proxy")})
