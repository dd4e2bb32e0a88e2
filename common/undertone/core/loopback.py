"""This machine's own addresses, and what a proxy of the environment must leave alone."""

HOSTS = ("127.0.0.1", "localhost", "::1")


def with_loopback(direct: str) -> str:
    """A value of NO_PROXY with this machine in it.

    Args:
        direct: the value so far: hosts that no proxy is asked for, with commas between them; may be empty.
    """
    return ",".join(dict.fromkeys([*filter(None, direct.split(",")), *HOSTS]))
