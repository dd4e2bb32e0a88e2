"""What surrounds the programs on a machine: the proxy of the environment, and Flower's version."""

from collections.abc import Mapping

from undertone.core.loopback import HOSTS, with_loopback
from undertone.preflight.verdict import Verdict, failed, passed

# As pyproject.toml has it: from, and below.
FLOWER = ((1, 41), (1, 43))
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def proxy(environment: Mapping[str, str]) -> Verdict:
    """Where a proxy is named, what is for this machine does not go there."""
    named = [name for name in _PROXIES if environment.get(name.lower()) or environment.get(name)]
    if not named:
        return passed("proxy", "the environment names no proxy")
    direct = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if not {HOSTS[0], "*"} & {host.strip() for host in direct.split(",")}:
        sentence = f"{named[-1]} is set, and NO_PROXY leaves out this machine: Flower's programs would ask the proxy"
        remedy = f"NO_PROXY={with_loopback('')} in the environment of every program here"
        return failed("proxy", sentence, remedy)
    return passed("proxy", "a proxy is named, and what is for this machine does not go there")


def flower(version: str) -> Verdict:
    """The installed flwr is one whose internals are known.

    Args:
        version: such as 1.41.0.
    """
    first, below = FLOWER
    major, minor, *_ = [*version.split("."), "", ""]
    whole = major.isdecimal() and minor.isdecimal()
    if not (whole and first <= (int(major), int(minor)) < below):
        bounds = f"flwr>={first[0]}.{first[1]},<{below[0]}.{below[1]}"
        sentence = "the installed flwr is a version that this one was not made for"
        return failed("flower", sentence, f'pip install "{bounds}"', [f"flwr {version}"])
    return passed("flower", "the installed flwr is one that this version was made for", [f"flwr {version}"])
