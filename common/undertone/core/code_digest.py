"""The SHA-256 of the installed code, so that a plan names the programs that will run it."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from undertone.core.canonical import digest_of, file_sha256
from undertone.errors import PlanChanged

# What runs at a node and at the coordinator; the command line decides nothing that a plan fixes.
_PACKAGES = ("undertone", "undertone_client", "undertone_server")


@cache
def package_sha256() -> str:
    """Digest over the path and SHA-256 of every Python file of the three packages that are installed.

    Raises:
        PlanChanged: a package is missing from this installation.
    """
    listed: list[list[str]] = []
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise PlanChanged(f"the package {name} is not installed here; install undertone-federated whole")
        root = Path(spec.submodule_search_locations[0])
        listed += [[f"{name}/{path.relative_to(root)}", file_sha256(path)] for path in sorted(root.rglob("*.py"))]
    return digest_of(listed)


def check_package(planned: str) -> None:
    """Refuse a plan whose `package_sha256` is not that of the installed code.

    Raises:
        PlanChanged: both digests' first digits.
    """
    if planned != package_sha256():
        raise PlanChanged(
            f"the plan names other code ({planned[:8]}) than is installed here ({package_sha256()[:8]}); install that "
            "version to go on"
        )
