"""Files hold one idea, functions fit a screen, errors are raised, and each failpoint stands at one place."""

import ast

import pytest

from tests.arch.tree import MODULES, ROOT, Module, called, functions, imported
from undertone.core.failpoints import NAMES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.file)
def test_errors_are_raised_not_asserted_and_functions_fit_a_screen(module: Module) -> None:
    asserted = [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Assert)]
    assert not asserted, f"{module.file} asserts"
    long = [one.name for one in functions(module.tree) if (one.end_lineno or 0) - one.lineno >= 70]
    assert not long, f"{module.file}: {long} are long"


def test_files_hold_one_idea() -> None:
    for module in MODULES:
        assert len(module.path.read_text(encoding="utf-8").splitlines()) <= 400, module.file


def reached(tree: ast.AST) -> list[str]:
    """The names that a module's calls of `reached` give; "" where one is no literal."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "reached" in ast.unparse(node.func)]
    return [call.args[0].value if isinstance(call.args[0], ast.Constant) else "" for call in calls]


def test_each_failpoint_stands_at_one_place_and_nothing_in_the_package_can_install_a_handler() -> None:
    used: list[str] = []
    for module in MODULES:
        if module.file == "undertone/core/failpoints.py":
            continue
        used += reached(module.tree)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and "failpoints" in ast.unparse(node):
                assert isinstance(node, ast.ImportFrom), module.file
                assert node.module == "undertone.core.failpoints", module.file
                assert [alias.name for alias in node.names] == ["reached"], module.file
    assert sorted(used) == sorted(NAMES)
    source = next(module.tree for module in MODULES if module.file == "undertone/core/failpoints.py")
    assert not called(source) & {"append", "extend", "insert", "getenv"}
    assert {name.rsplit(".", 1)[0] for name in imported(source)} <= {"collections", "collections.abc", "typing"}


def test_the_root_pyproject_is_no_flower_app() -> None:
    # A root app would pack every text file that git does not ignore, patients' metadata included.
    assert "[tool.flwr" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
