"""What two processes, an old ledger, another layout or the fall of coins must not be able to do."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION
from tests.support.entropy import InsecureTestEntropy
from tests.support.world import World
from undertone.errors import FolderError, LedgerCorrupt, MechanismViolation, PlanChanged, ReplayedAttempt
from undertone.models.pinned import pin
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import PER_ROW, Sensitivity, Sum
from undertone.study.planned import planned_method
from undertone.study.planned_parts import PlannedMethod
from undertone_cli.console import Bars
from undertone_cli.diagnostics import diagnose
from undertone_client import node
from undertone_client.compute import preparing, row_worker
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import pass_gate
from undertone_server.run_folder import RunFolder

Make = Callable[..., World]
SALT = bytes(range(32))


def test_a_sum_is_never_noised_twice(make_world: Make) -> None:
    world = make_world()
    world.run.mark_asked(1, 1)
    total = Sum(np.arange(DIMENSION), Sensitivity(world.plan.privacy.sensitivity), ("east", "north"))
    world.run.keep_sum(1, 1, total, SALT)
    with Ledger.open(world.run.ledger) as ledger:
        first = pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
        with pytest.raises(MechanismViolation, match="never noised twice"):
            pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
    kept = world.run.kept_noised(1)
    assert kept is not None
    np.testing.assert_array_equal(kept[1], first.values)


def test_the_gate_compares_the_relation_of_the_bound_too(make_world: Make) -> None:
    world = make_world()
    other = Sensitivity(world.plan.privacy.sensitivity, "float sum")
    assert other.relation != PER_ROW
    total = Sum(np.zeros(DIMENSION, dtype=np.int64), other, ("east", "north"))
    with Ledger.open(world.run.ledger) as ledger, pytest.raises(MechanismViolation, match="nothing was opened"):
        pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())


def test_one_process_runs_a_study(make_world: Make) -> None:
    world = make_world()
    with world.run.locked(), pytest.raises(FolderError, match="another process"), world.run.locked():
        pass
    with world.run.locked():
        pass


def test_a_finished_round_needs_its_charge_too(make_world: Make) -> None:
    world = make_world()
    shutil.copy(world.run.ledger, world.folder / "old.sqlite")
    world.run_rounds()
    shutil.copy(world.folder / "old.sqlite", world.run.ledger)
    with pytest.raises(LedgerCorrupt, match="restore the newest"):
        world.run_rounds()


def test_a_kill_while_the_attempt_is_marked_leaves_a_run_that_goes_on(make_world: Make) -> None:
    world = make_world()
    world.round_folder().mkdir()
    (world.round_folder() / "asked-001.mark.part").write_bytes(b"")
    world.run_rounds()
    assert world.charges() == [(1, 1)]


def test_two_attempts_of_a_round_cannot_both_pass_at_p_1(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(max_attempts=2)
    for attempt in (1, 2):
        assert world.ask("prepare", attempt=attempt).error == ""
    monkeypatch.setattr(node, "_refuse_replay", lambda *_: None)  # both requests passed it before either charged
    answers = [world.ask("plain_input", attempt=attempt) for attempt in (1, 2)]
    assert answers[0].words is not None
    assert (answers[1].words, answers[1].error) == (None, ReplayedAttempt.__name__)
    assert world.charges("north") == [(1, 1)]


def test_another_layout_is_another_plan(make_world: Make, dummy_base: Path) -> None:
    world = make_world()
    planned_method(world.plan, pin(str(dummy_base)))
    for change in ({"dimension": DIMENSION // 2}, {"layout_digest": "0" * 64}):
        method = PlannedMethod.model_validate(world.plan.method.model_dump() | change)
        with pytest.raises(PlanChanged, match="adapts"):
            planned_method(world.plan.model_copy(update={"method": method}), pin(str(dummy_base)))


def test_diagnostics_refuse_another_layout(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    method = world.plan.method.model_copy(update={"layout_digest": "0" * 64})
    changed = world.plan.model_copy(update={"method": method})
    monkeypatch.setattr(RunFolder, "plan", lambda _self: changed)
    with pytest.raises(PlanChanged, match="adapts"):
        diagnose(world.run.folder)


@pytest.mark.parametrize("coins", [1e-9, 1.0])
def test_taking_part_says_nothing_about_the_coins(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, coins: float
) -> None:
    world = make_world(sampling_rate=coins, max_attempts=2)

    def other_files(reference: str, revision: str | None = None) -> Any:
        found = pin(reference, revision)
        return replace(found, files=dict.fromkeys(found.files, "0" * 64))

    monkeypatch.setattr(preparing, "pin", other_files)
    reply = world.node(entropy=InsecureTestEntropy(1)).handle(world.request())
    assert reply.error == PlanChanged.__name__


def test_a_withdrawn_unit_and_an_emptied_site_are_zero_rows(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    with monkeypatch.context() as patch:
        patch.setattr(row_worker, "padded", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.ask("prepare")
    metadata = world.folder / "data" / "north" / "metadata.csv"
    lines = metadata.read_text(encoding="utf-8").splitlines()
    metadata.write_text(lines[0] + "\n", encoding="utf-8")
    assert world.ask("prepare").error == ""
    assert not any(row.any() for row in world.rows().values())
    words = world.ask("plain_input").words
    assert words is not None
    assert not words.any()


def test_a_sites_words_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Bars().line("see [/var/log] and [bold]")
    assert "see [/var/log] and [bold]" in capsys.readouterr().err.replace("\n", " ")
