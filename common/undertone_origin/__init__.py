"""What each program does before it imports anything: whose module `undertone` is, and how threads wait.

Another project owns the name `undertone` on the Python package index, and installs a module of that name. Where both
are installed, `import undertone` runs that project's code, or a mixture of both. So each of our programs asks here
first, from a package that imports nothing of its own project and nothing heavy. What counts is where files lie, never
what a distribution is called: an installation from a clone has no files in `site-packages` at all.
"""

import os
import sys
from functools import cache
from importlib.util import find_spec

DISTRIBUTION = "undertone-federated"
_MODULE = "undertone"
_OURS = "undertone_origin"


class ModuleTaken(ImportError):
    """Another distribution owns the module `undertone` here; names it and says what to do."""


@cache
def refuse_strangers() -> None:
    """Raise, the first time in a process, where `import undertone` would run, or mix in, another project's files.

    Raises:
        ModuleTaken: names the stranger and the remedy.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # pathlib would cost --help some milliseconds
    found = _folder_of(_MODULE)
    if found is None or os.path.realpath(found) != os.path.realpath(os.path.join(home, _MODULE)):
        owners = [] if found is None else _owners(os.path.dirname(found))
        raise ModuleTaken(_message(owners, found))
    owners = _owners(home)
    if owners:
        raise ModuleTaken(_message(owners, found))


def let_waiting_threads_sleep() -> None:
    """Tell OpenMP that its threads sleep while they wait, unless the user has said what they do.

    Two jobs on one machine stop each other where they spin: of two demos side by side neither was through its first
    site when one alone had ended. Read when numpy and torch load their libraries, so each of our programs says it
    before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def _folder_of(module: str) -> str | None:
    """Where Python would import a module from, without importing it."""
    loaded = sys.modules.get(module)
    spec = find_spec(module) if loaded is None else loaded.__spec__
    if spec is None or spec.origin is None:
        return None
    return os.path.dirname(os.path.abspath(spec.origin))


def _owners(folder: str) -> list[str]:
    """Distributions, not ours, whose list of installed files names a module of ours in this folder."""
    owners = []
    with os.scandir(folder) as entries:
        metadata = sorted(entry.path for entry in entries if entry.name.endswith(".dist-info"))
    for path in metadata:
        try:
            with open(os.path.join(path, "RECORD"), "rb") as stream:
                listed = stream.read()
        except OSError:
            continue  # a distribution that lists no files, as some systems' own packages
        if _lists(listed, _MODULE) and not _lists(listed, _OURS):
            owners.append(os.path.basename(path).removesuffix(".dist-info").replace("-", " "))
    return owners


def _lists(listed: bytes, module: str) -> bool:
    """Whether a RECORD has files of a module; some spell paths with backslashes."""
    starts = (f"{module}/".encode(), f"{module}\\".encode())
    return listed.startswith(starts) or any(b"\n" + start in listed for start in starts)


def _message(owners: list[str], found: str | None) -> str:
    stranger = f"the distribution {' and '.join(owners)}" if owners else "something that is not Undertone"
    names = " ".join(owner.split(" ")[0] for owner in owners)
    remedy = f"Run pip uninstall {names}, then install" if owners else "Take it off Python's path, or install"
    return (
        f"the module {_MODULE} here ({found or 'nowhere'}) belongs to {stranger}, so another project's code would run. "
        f"{remedy} {DISTRIBUTION} anew, in an environment of its own"
    )
