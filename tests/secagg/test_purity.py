"""The protocol reads no clock, file, network or seed, and loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import undertone.secagg

FOLDER = Path(undertone.secagg.__file__).parent
# Masks come from a kernel that uses threads; the federation is read by both parties and stands in another room.
ACTS = {"prg.py"}
PURE = [path for path in sorted(FOLDER.glob("*.py")) if path.name not in ACTS] + [FOLDER.parent / "core/federation.py"]
ALLOWED = {
    *("collections", "dataclasses", "functools", "hashlib", "itertools", "json", "math", "re", "types", "typing"),
    *("cryptography", "numpy", "undertone"),
}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_a_module_imports_nothing_that_acts(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names <= ALLOWED


def test_both_parties_start_without_anything_heavy():
    code = (
        "import sys, undertone.secagg.node, undertone.secagg.server; "
        "print([name for name in ('torch', 'flwr', 'pydantic', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
