"""The packages as syntax trees, and questions to them: what is imported, what is called."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "undertone": ROOT / "common" / "undertone",
    "undertone_origin": ROOT / "common" / "undertone_origin",
    "undertone_client": ROOT / "client" / "undertone_client",
    "undertone_server": ROOT / "server" / "undertone_server",
    "undertone_cli": ROOT / "deployments" / "undertone_cli",
}


@dataclass(frozen=True)
class Module:
    """One file: `name` is its dotted name, `file` its path from the package's folder upwards."""

    name: str
    file: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def room(self) -> str:
        """The folder or file of its package in which it stands; empty for the package's own __init__.py."""
        return [*self.name.split("."), ""][1]


def modules(packages: dict[str, Path]) -> list[Module]:
    found = []
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            parts = inner.with_suffix("").parts
            name = ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])
            found.append(Module(name, f"{package}/{inner.as_posix()}", path))
    return found


MODULES = modules(PACKAGES)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what is imported, wherever the import stands; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def uses(module: Module, known: set[str]) -> set[str]:
    """Which of the `known` modules a module imports: for `from a import b` a.b where that is a module, else a."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found |= {inner if inner in known else node.module} & known
    return found - {module.name}


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: nothing in functions and classes, nothing under TYPE_CHECKING."""
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    kept = [node for node in kept if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body=kept, type_ignores=[])


def called(tree: ast.AST) -> set[str]:
    """The last part of the name of everything that is called."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            names.add(function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""))
    return names


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_in(file: str, places: set[str]) -> bool:
    """Whether a file is one of `places`, or in a folder that is; folders end with a slash."""
    return any(file == place or (place.endswith("/") and file.startswith(place)) for place in places)
