"""The floor plan: which rooms there are, in which order, and that imports only ever go to rooms above.

`pytest -s tests/arch/test_rooms.py` prints rooms and arrows; docs/ARCHITECTURE.md shows the same.
"""

from collections import defaultdict
from pathlib import Path

import pytest

from tests.arch.tree import MODULES, PACKAGES, ROOT, Module, modules, uses

# Inside a package, top to bottom: a room imports rooms that stand before it, and itself.
ROOMS = {
    "undertone": (
        "errors",
        "core",
        "preflight",
        "gradients",
        "public_images",
        "wire",
        "privacy",
        "secagg",
        "data",
        "models",
        "evaluation",
        "training",
        "methods",
        "study",
        "release",
        "pretraining",
    ),
    "undertone_origin": (),
    "undertone_client": (
        "site",
        "registration",
        "approval",
        "rehearsal",
        "compute",
        "round",
        "node",
        "service",
        "relay",
        "checks",
        "supervise",
        "app",
    ),
    "undertone_server": (
        "home",
        "run_folder",
        "status",
        "studies",
        "checks",
        "attempt_ref",
        "ledger_heads",
        "telemetry",
        "movement",
        "card",
        "update",
        "gate",
        "collect",
        "rounds",
        "starting",
        "release",
        "run_study",
        "app",
    ),
    "undertone_cli": (
        "console",
        "extras",
        "lazy",
        "processes",
        "released",
        "verdicts",
        "site_logs",
        "flower_app",
        "provisioning",
        "split_folders",
        "split",
        "evaluating",
        "diagnostics",
        "ancestry",
        "engines",
        "loopback",
        "commands",
        "main",
    ),
}
# Between packages.
MAY_IMPORT = {
    "undertone": set(),
    "undertone_origin": set(),  # asked before anything is imported from `undertone`
    "undertone_client": {"undertone", "undertone_origin"},
    "undertone_server": {"undertone", "undertone_origin"},
    "undertone_cli": {"undertone", "undertone_origin", "undertone_client", "undertone_server"},
}


def graph(found: list[Module]) -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    known = {module.name for module in found}
    return {module.name: uses(module, known) for module in found}


def room_of(name: str) -> tuple[str, str]:
    package, room, *_ = [*name.split("."), ""]
    return package, room


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Imports from a room that stands below, or is on no list."""
    wrong = []
    for name, targets in imports.items():
        package, room = room_of(name)
        for target in targets:
            other, above = room_of(target)
            if other != package:
                ok = other in MAY_IMPORT[package]
            else:
                order = ["", *ROOMS[package]]
                ok = room == above or room == "" or order.index(above) < order.index(room)
            if not ok:
                wrong.append(f"{name} imports {target}")
    return sorted(wrong)


def circle(imports: dict[str, set[str]]) -> list[str]:
    """A circle of modules, if there is one."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        return next((found for target in sorted(imports[name]) if (found := walk(target, [*way, name]))), [])

    return next((found for name in sorted(imports) if (found := walk(name, []))), [])


def floor_plan() -> str:
    """Each package's rooms with what they import of the same package, as docs/ARCHITECTURE.md shows them."""
    arrows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, targets in graph(MODULES).items():
        for target in targets:
            if room_of(target)[0] == room_of(name)[0] and room_of(target) != room_of(name):
                arrows[room_of(name)].add(room_of(target)[1])
    lines = []
    for package, rooms in ROOMS.items():
        if not rooms:
            continue
        lines += [package] if not lines else ["", package]
        for room in rooms:
            above = [other for other in rooms if other in arrows[package, room]]
            lines.append(f"    {room:15}{'<- ' + ' '.join(above) if above else ''}".rstrip())
    return "\n".join(lines)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_file_stands_in_a_room(package: str) -> None:
    found = {module.room for module in MODULES if module.package == package} - {""}
    assert found == set(ROOMS[package])


def test_imports_go_up_the_list_alone() -> None:
    assert not upward(graph(MODULES))


def test_no_circle() -> None:
    assert not circle(graph(MODULES))


def test_the_page_shows_the_floor_plan() -> None:
    print(floor_plan())
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert floor_plan() in page.replace("```text\n", "").replace("\n```", ""), "docs/ARCHITECTURE.md shows another plan"


def test_every_room_says_what_it_is() -> None:
    for module in MODULES:
        if module.path.name == "__init__.py":
            assert module.path.read_text(encoding="utf-8").startswith('"""'), module.file


def test_tests_stand_in_the_rooms_of_what_they_test() -> None:
    """Every folder of tests that is named after a package's room is one; others are for the whole."""
    whole = {"arch", "e2e", "support"}
    rooms = {"client": "undertone_client", "server": "undertone_server", "cli": "undertone_cli"}
    for folder in sorted((ROOT / "tests").iterdir()):
        if not folder.is_dir() or folder.name.startswith("__") or folder.name in whole:
            continue
        assert folder.name in ROOMS["undertone"] or folder.name in rooms, folder.name
        if folder.name in rooms:
            for inner in sorted(folder.iterdir()):
                if inner.is_dir() and not inner.name.startswith("__"):
                    assert inner.name in ROOMS[rooms[folder.name]], inner


@pytest.fixture
def copied(tmp_path: Path) -> list[Module]:
    """Two rooms of a package in a temporary folder, one file each."""
    for room in ("core", "study"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text('"""A room."""\n')
    (tmp_path / "core" / "low.py").write_text("import os\n")
    (tmp_path / "study" / "high.py").write_text("from undertone.core import low\n")
    return modules({"undertone": tmp_path})


def test_an_arrow_down_the_list_would_be_seen(copied: list[Module]) -> None:
    assert not upward(graph(copied))
    low = next(module for module in copied if module.name == "undertone.core.low")
    low.path.write_text("def late() -> None:\n    from undertone.study import high\n")
    again = modules({"undertone": low.path.parents[1]})
    assert upward(graph(again)) == ["undertone.core.low imports undertone.study.high"]
    assert circle(graph(again)) == ["undertone.core.low", "undertone.study.high", "undertone.core.low"]


def test_a_file_in_no_room_would_be_seen(copied: list[Module]) -> None:
    stray = copied[0].path.parents[1] / "stray.py"
    stray.write_text("")
    assert "stray" in {module.room for module in modules({"undertone": stray.parent})} - set(ROOMS["undertone"])
