"""`undertone node check`: what it prints, its exit codes, and that it can be pasted anywhere."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.runs import call
from tests.support.world import World
from undertone.preflight.verdict import passed
from undertone_cli.commands import node_check
from undertone_client.checks import inspection
from undertone_client.checks.registry import CHECKS
from undertone_client.site.audit_log import AuditLog

Make = Callable[..., World]
PATIENTS, IMAGES = 23, 46


@pytest.fixture
def world(make_world: Make) -> World:
    found = make_world({"north": IMAGES, "east": 4})
    AuditLog(found.sites["north"]).append("plan expired", digest="ab" * 32)
    return found


def check(world: World, *options: object) -> Any:
    return call("node", "check", world.sites["north"], "--plan", world.run.folder / "plan.json", *options)


GOOD = """\
PASS clock: the clock agrees with SITE_DIR's own files; the coordinator's clock was not asked
PASS keys: secret and identity are there, for their owner alone; neither has an expiry
PASS ledger: the ledger opens, and its chain holds
PASS audit log: the audit log's chain holds
PASS manifest: each federation manifest holds for a month and more
PASS policy: policy.toml allows all of the plans at hand
PASS code: the installed code is what the plans at hand name
PASS flower: the installed flwr is one that this version was made for
PASS base models: each base model is here, byte for byte as pinned
PASS device: cpu: there, and computes in float32
PASS data: every record can be read
PASS units: what is published is within a quarter of what is there
PASS disk: the disk of SITE_DIR has room enough for the plans at hand
north: PASS
"""

BAD = """\
PASS clock: the clock agrees with SITE_DIR's own files; the coordinator's clock was not asked
FAIL keys: secret.key can be used by others on this machine
     remedy: chmod 600 secret.key in SITE_DIR, and find out who could read it
PASS ledger: the ledger opens, and its chain holds
PASS audit log: the audit log's chain holds
PASS manifest: each federation manifest holds for a month and more
PASS policy: policy.toml allows all of the plans at hand
PASS code: the installed code is what the plans at hand name
PASS flower: the installed flwr is one that this version was made for
PASS base models: each base model is here, byte for byte as pinned
PASS device: cpu: there, and computes in float32
FAIL data: there are records that cannot be read, are not listed well, or changed since they were registered
     remedy: repair or remove them before you approve a plan; --details names them
PASS units: what is published is within a quarter of what is there
PASS disk: the disk of SITE_DIR has room enough for the plans at hand
north: FAIL
"""


@pytest.fixture
def on_cpu(world: World) -> World:
    path = world.sites["north"] / "node.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"auto"', '"cpu"'), encoding="utf-8")
    return world


def test_what_is_printed_of_a_good_site(on_cpu: World) -> None:
    result = check(on_cpu)
    assert result.exit_code == 0
    assert result.stdout == GOOD
    assert result.stderr == ""


def test_what_is_printed_of_a_bad_site(on_cpu: World) -> None:
    (on_cpu.sites["north"] / "secret.key").chmod(0o644)
    images(on_cpu, 3).write_bytes(b"no image")
    result = call("node", "check", on_cpu.sites["north"])
    assert result.exit_code == 2
    assert result.stdout == BAD
    assert result.stderr == ""


def test_a_warning_leaves_the_exit_code_at_0(on_cpu: World) -> None:
    on_cpu.sites["north"].chmod(0o755)
    result = check(on_cpu)
    assert result.exit_code == 0
    assert "WARN keys: SITE_DIR can be opened by others" in result.stdout
    assert result.stdout.endswith("north: WARN\n")


def test_json(on_cpu: World) -> None:
    result = check(on_cpu, "--json")
    found = json.loads(result.stdout)
    assert (found["site"], found["status"]) == ("north", "PASS")
    assert [one["name"] for one in found["checks"]] == list(CHECKS)
    lines = [f"{one['status']} {one['name']}: {one['sentence']}" for one in found["checks"]]
    assert "\n".join(lines) + "\nnorth: PASS\n" == GOOD
    assert all(set(one) == {"name", "status", "sentence", "remedy"} for one in found["checks"])
    images(on_cpu, 3).write_bytes(b"no image")
    result = check(on_cpu, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["status"] == "FAIL"
    (data,) = [
        one for one in json.loads(check(on_cpu, "--json", "--details").stdout)["checks"] if one["name"] == "data"
    ]
    assert any("scan-0003.png" in line for line in data["details"])


def test_details_move_no_cursor(on_cpu: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = passed("looks", "fine", ["a model in \x1b[2J\nFAIL keys: [red]no[/red]"])
    monkeypatch.setattr(node_check, "checks_of", lambda *_, **__: {"looks": lambda _: looks})
    assert check(on_cpu, "--details").stdout == (
        "PASS looks: fine\n     a model in \\x1b[2J\\nFAIL keys: [red]no[/red]\nnorth: PASS\n"
    )


def test_device_memory_is_tried_where_it_is_asked_for(on_cpu: World) -> None:
    result = check(on_cpu, "--device-memory")
    assert result.exit_code == 0, result.output
    assert "PASS device memory: one unit fits on each device of this site" in result.stdout


def test_a_plan_that_is_none(on_cpu: World, tmp_path: Path) -> None:
    result = call("node", "check", on_cpu.sites["north"], "--plan", tmp_path / "nothing.json")
    assert result.exit_code == 2
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    result = call("node", "check", on_cpu.sites["north"], "--plan", tmp_path / "plan.json")
    assert result.exit_code == 3
    assert result.stderr.startswith("PlanChanged: ")


# --- safe to paste -------------------------------------------------------------------------------------


def images(world: World, number: int) -> Path:
    return world.folder / "data" / "north" / "images" / f"scan-{number:04d}.png"


def metadata(world: World) -> Path:
    return world.folder / "data" / "north" / "metadata.csv"


def line(world: World, number: int, change: Callable[[str], str]) -> None:
    lines = metadata(world).read_text(encoding="utf-8").splitlines()
    lines[number + 1] = change(lines[number + 1])
    metadata(world).write_text("\n".join(lines) + "\n", encoding="utf-8")


DAMAGE: dict[str, Callable[[World, int], object]] = {
    "no image": lambda world, n: images(world, n).write_bytes(b"no image"),
    "gone": lambda world, n: images(world, n).unlink(missing_ok=True),
    "empty": lambda world, n: images(world, n).write_bytes(b""),
    "flat": lambda world, n: Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(images(world, n)),
    "another": lambda world, n: images(world, n + 1000).write_bytes(b"no line lists it"),
    "hidden": lambda world, n: images(world, n).with_name(f"._scan-{n:04d}.png").write_bytes(b""),
    "short line": lambda world, n: line(world, n, lambda text: text.rsplit(",", 1)[0]),
    "no patient": lambda world, n: line(world, n, lambda text: re.sub("patient-[0-9]+", " ", text)),
    "other patient": lambda world, n: line(world, n, lambda text: re.sub("patient-[0-9]+", "patient-999", text)),
    "twice": lambda world, n: line(world, n, lambda text: f"{text}\n{text}"),
    "control": lambda world, n: line(world, n, lambda text: text.replace("scan", "sc\x1b[2Jan")),
    "outside": lambda world, n: line(world, n, lambda text: text.replace("images/", "../../../etc/")),
    "no columns": lambda world, _n: metadata(world).write_bytes(b"file_name\n"),
    "no metadata": lambda world, _n: metadata(world).unlink(missing_ok=True),
    "not text": lambda world, _n: metadata(world).write_bytes(b"\xff\xfe\x00patient-3"),
    "no folder": lambda world, _n: metadata(world).parent.rename(world.folder / "data" / "patient-7-scan-0001.png"),
    "a damaged registration": lambda world, _n: next((world.sites["north"] / "registered").iterdir()).write_bytes(
        b"patient-3\n"
    ),
    "a link": lambda world, n: (images(world, n).unlink(), images(world, n).symlink_to("/nonexistent/patient-4")),
}


def names_nothing(world: World, printed: str) -> None:
    """No file, folder of data, patient or count of the world stands in what was printed."""
    for text in ("scan-", "images/", "metadata", ".png", "patient-", "clear", "mass", str(world.folder / "data")):
        assert text not in printed, text
    assert "/" not in printed.replace("RUN/plan.json", "").replace("audit/", "")
    numbers = {int(found) for found in re.findall(r"(?<![0-9a-f])[0-9]+(?![0-9a-f])", printed)}
    assert numbers <= {32, 600, 700}, numbers  # float32, chmod


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_output_names_a_record_or_a_count(world: World, kind: str) -> None:
    for number in (5, 9, 17):
        if kind != "no folder" or number == 5:
            DAMAGE[kind](world, number)
    for options in ([], ["--json"], ["--device-memory"]):
        result = check(world, *options)
        assert result.exit_code in (0, 2)
        names_nothing(world, result.output)
    named = check(world, "--details").output
    assert any(text in named for text in ("scan-", "patient-", "metadata", "registered")) or kind == "hidden"
    assert not set(named) & {"\x1b", "\r"}


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    chosen=st.lists(
        st.tuples(
            st.sampled_from([kind for kind in DAMAGE if kind not in ("no folder", "no metadata", "a link")]),
            st.integers(0, IMAGES - 1),
        ),
        max_size=8,
    )
)
def test_nor_with_any_damages_at_once(
    make_world: Make, tmp_path_factory: pytest.TempPathFactory, dummy_base: Path, chosen: list[tuple[str, int]]
) -> None:
    from tests.support.world import build_world

    world = build_world(tmp_path_factory.mktemp("damaged"), dummy_base, {"north": IMAGES, "east": 4})
    for kind, number in chosen:
        try:
            DAMAGE[kind](world, number)
        except (IndexError, UnicodeDecodeError):
            continue  # the line is not there any more
    names_nothing(world, check(world).output)


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, OSError, KeyError, UnicodeError])
def test_nor_where_a_check_ends_with_an_error_that_names_one(
    world: World, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise kind("patient-3 has images/scan-0003.png twice in 46 records")

    monkeypatch.setattr(inspection, "check_site", broken)
    result = check(world)
    assert result.exit_code == 2
    assert f"FAIL data: this could not be checked: {kind.__name__}" in result.stdout
    names_nothing(world, result.output)
    assert "patient-3" in check(world, "--details").stdout
