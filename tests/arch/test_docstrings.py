"""What docstrings claim about the code they stand in: the tree of errors, and symbols as the formulas write them."""

import ast
import inspect

import pytest

from tests.arch.tree import MODULES, Module
from undertone import errors

# Symbols that are small letters in every formula: a linter that wants a capital makes other symbols of them.
SMALL = {"W", "X", "S", "P", "Z", "R", "Sigma", "Tau"}


def branches(kind: type[errors.UndertoneError], depth: int = 0) -> list[tuple[str, int]]:
    """Each error class below `kind` in the order of the tree, with its depth."""
    found = [(kind.__name__, depth)]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found += branches(child, depth + 1)
    return found


def drawn(text: str) -> list[tuple[str, int]]:
    """The names of a drawn tree, with the depth at which each stands."""
    lines = [line for line in text.splitlines() if "-- " in line]
    return [(line.split("-- ")[1].split()[0], line.index("-- ") // 4) for line in lines]


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    assert drawn(inspect.getdoc(errors) or "") == branches(errors.UndertoneError)[1:]


def docstrings(tree: ast.Module) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.file)
def test_no_docstring_begins_with_a_symbol_in_capitals_that_is_a_small_letter(module: Module) -> None:
    assert not [text for text in docstrings(module.tree) if text.replace(",", " ").split(" ")[0] in SMALL], module.file
