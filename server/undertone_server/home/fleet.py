"""Which SuperNodes the SuperLink lets in: those of the sites that are in the federation, and no others.

The SuperLink keeps its own list of keys. `synchronise` makes it that of COORDINATOR_DIR, through the interface that
`flwr supernode register | unregister | list` use, on loopback.
"""

import os
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
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def synchronise(home: Home) -> Registered:
    """Register each site's Flower key at the SuperLink, and unregister every key that no site has.

    Raises:
        SuperLinkUnreachable: it cannot be reached, or refuses; what was done before that stays.
        FolderError: a file of sites/ is damaged.
    """
    wanted = {registered_form(request.flower): name for name, request in accepted(home).items()}
    done = Registered()
    _no_proxy_between(home)
    client = ControlHttpClient.from_server_address(
        f"127.0.0.1:{home.settings.superlink_port}",
        insecure=False,
        root_certificates=read_bytes(home.loopback_ca),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        nodes = [node for node in client.ListNodes(ListNodesRequest()).nodes_info if node.status != _GONE]
        for node in nodes:
            if node.public_key not in wanted:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                done.removed.append(shown(node.name or str(node.node_id), 80))
        known = {node.public_key for node in nodes}
        for key, name in wanted.items():
            if key not in known:
                client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            (done.kept if key in known else done.added).append(name)
    except (httpx.HTTPError, ValueError) as error:
        raise SuperLinkUnreachable(
            f"the SuperLink on 127.0.0.1:{home.settings.superlink_port} does not answer as it should: "
            f"{shown(str(error) or type(error).__name__)}; start it with `undertone coordinator start`, which also "
            "registers what is not registered yet"
        ) from None
    finally:
        client.close()
    return done


def _no_proxy_between(home: Home) -> None:
    """Flower's client asks the environment for a proxy when it is made; on loopback there must be none."""
    direct = home.flower_environment()
    os.environ.update({name: direct[name] for name in ("NO_PROXY", "no_proxy")})
