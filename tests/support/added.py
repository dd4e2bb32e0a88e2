"""A method that is added as one folder and one registry line: the hook that only tests have.

There are no entry points: a plan names the digest of the installed code, which a method from elsewhere would escape.
"""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from undertone import methods
from undertone.methods.protocol import Method
from undertone.methods.registry import METHODS

_TOY = Path(__file__).with_name("toy")


@contextmanager
def added_method(where: Path) -> Iterator[type[Method]]:
    """The toy's folder, written to `where` and found among the methods' folders; then the registry's line."""
    shutil.copytree(_TOY, where / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__path__", [*methods.__path__, str(where)])
        importlib.invalidate_caches()
        method: type[Method] = importlib.import_module("undertone.methods.toy.method").ChannelShift
        patch.setitem(METHODS, method.name, method)
        try:
            yield method
        finally:
            for name in [name for name in sys.modules if name.startswith("undertone.methods.toy")]:
                del sys.modules[name]
