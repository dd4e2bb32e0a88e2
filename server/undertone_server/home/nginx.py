"""What nginx is told: to pass on the requests of sites' SuperNodes, and nothing else of the SuperLink.

The SuperLink serves three interfaces on one port: sites' (/v1/fleet/), that of runs (/v1/runtime/) and the one that
starts and stops runs (/v1/control/), which knows no accounts. So the whole request line is held against one pattern
before nginx looks at it in any other way: no spelling of a path reaches the other two.
"""

import os
import pwd
from pathlib import Path

from undertone.core.fleet_address import FleetAddress

# Flower sends objects in pieces of 5 MB; nginx's default of 1 MB would refuse them. They stay in memory: where
# root starts nginx, its workers run as nobody, who can write nowhere in COORDINATOR_DIR.
_LARGEST_BODY = "16m"
# There where the machine speaks IPv6; nginx does not start where it does not and is told to listen on it.
_IPV6 = Path("/proc/net/if_inet6")


def server_conf(address: FleetAddress, port: int, certificate: Path, key: Path, loopback_ca: Path) -> str:
    """A server for the http context of nginx, such as /etc/nginx/conf.d/undertone.conf.

    Args:
        address: where sites reach it.
        port: the SuperLink's, on 127.0.0.1.
        certificate: what sites see.
        key: of the certificate.
        loopback_ca: by which the SuperLink is known.

    Raises:
        ValueError: a path cannot be written.
    """
    return f"""# Written by `undertone coordinator init`: sites' requests to the SuperLink, and no others.
server {{
{_listen(address)}    server_name {quoted(address.host)};
    server_tokens off;

    ssl_certificate {quoted(certificate)};
    ssl_certificate_key {quoted(key)};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;

    client_max_body_size {_LARGEST_BODY};
    client_body_buffer_size {_LARGEST_BODY};
    client_body_timeout 60s;
    client_header_timeout 20s;

    # The request as it was sent, before dots, slashes and percent signs are resolved.
    if ($request_uri !~ "^/v1/fleet/[a-z-]+$") {{
        return 404;
    }}

    location ^~ /v1/fleet/ {{
        limit_except POST {{
            deny all;
        }}
        proxy_pass https://127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Host localhost;
        proxy_set_header Connection "";
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {quoted(loopback_ca)};
        proxy_ssl_name localhost;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_read_timeout 120s;
        proxy_max_temp_file_size 0;
    }}

    location / {{
        return 404;
    }}
}}
"""


def standalone_conf(folder: Path) -> str:
    """A whole configuration that runs `undertone.conf` of this folder alone, for any user.

    Where root starts it, its workers are root's too, as the SuperLink is: those of another account could not reach the
    bodies that are longer than a buffer, which lie in this folder for a moment.

    Raises:
        ValueError: the path cannot be written.
    """
    temporary = "".join(
        f"    {kind}_temp_path {quoted(folder / 'tmp' / kind)};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""# Written by `undertone coordinator init`, for `undertone coordinator start --nginx`.
{_account()}daemon off;
worker_processes 2;
pid {quoted(folder / "nginx.pid")};
error_log stderr warn;

events {{
    worker_connections 512;
}}

http {{
    access_log off;
{temporary}
    include {quoted(folder / "undertone.conf")};
}}
"""


def _account() -> str:
    """Who runs the workers; a program that root does not start cannot choose."""
    return f"user {quoted(pwd.getpwuid(0).pw_name)};\n" if os.geteuid() == 0 else ""


def _listen(address: FleetAddress) -> str:
    """On all addresses of the machine; on loopback alone where that is all that the fleet's address is."""
    ours = address.host == "localhost" or (address.ip is not None and address.ip.is_loopback)
    hosts = ["127.0.0.1", "[::1]"] if ours else ["0.0.0.0", "[::]"]
    if not _IPV6.exists():
        hosts.pop()
    return "".join(f"    listen {host}:{address.port} ssl;\n" for host in hosts)


def quoted(value: Path | str) -> str:
    """A value in nginx's quotes.

    Raises:
        ValueError: it holds what has a meaning there, or a glob would read.
    """
    text = str(value)
    if not text.isprintable() or set(text) & set('"\\$*?[]{};'):
        raise ValueError(f"{text!r} has a character that nginx would not read as it stands")
    return f'"{text}"'
