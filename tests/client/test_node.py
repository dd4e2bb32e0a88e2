"""The node refuses what it must, draws its coins once, and says nothing about a record."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, DummyMethod
from tests.support.entropy import InsecureTestEntropy
from tests.support.failpoints import Killed, at, kill_before
from tests.support.world import START, World, data_of, oracle_row
from undertone import PROTOCOL
from undertone.core.canonical import digest_of
from undertone.core.keys import PLAN_DOMAIN, create_key, sign
from undertone.errors import LedgerUnavailable, NotApproved
from undertone.models.pinned import files_digest, pin
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import from_ring
from undertone_client import node
from undertone_client.compute import preparing
from undertone_client.compute.row_worker import RowWorker
from undertone_client.registration.registered import register
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]


def changed_plan(world: World, *path: str, value: Any) -> Any:
    """The world's plan with one field changed."""
    data = world.plan.model_dump(mode="json")
    table = data
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
    return type(world.plan).model_validate(data)


def test_a_site_answers_the_clipped_quantised_sum_of_its_rows(make_world: Make) -> None:
    world = make_world()
    assert world.ask("prepare").error == ""
    reply = world.ask("plain_input")
    patients = sorted({row["patient_id"] for row in world.records["north"]})
    total = np.zeros(DIMENSION, dtype=np.int64)
    bound = world.plan.grid.clip_units / world.plan.grid.scale
    for patient in patients:
        row = oracle_row(world, "north", patient).astype(np.float64)
        row *= min(1.0, bound * (1 - 2**-10) / np.linalg.norm(row))
        total += np.trunc(row * world.plan.grid.scale).astype(np.int64)
    assert reply.words is not None
    answered = from_ring(reply.words, 1, world.plan.grid.site_clamp)
    assert np.abs(answered - total).max() <= len(patients)  # the last bits of the clip, one grid unit a row
    assert sorted(world.rows()) == patients


def test_hello_names_the_site_and_nothing_else(make_world: Make) -> None:
    reply = make_world().ask("hello", plan=b"", signature="", state=None)
    assert (reply.site, reply.error, reply.words) == ("north", "", None)


def test_another_protocol_is_refused_with_both_numbers(make_world: Make) -> None:
    reply = make_world().ask("hello", protocol=7)
    assert reply.error == "ProtocolError"
    assert "7" in reply.message
    assert str(PROTOCOL) in reply.message


def test_a_plan_of_another_protocol_is_refused_with_both_numbers(make_world: Make) -> None:
    world = make_world()
    reply = world.ask("prepare", **world.signed(changed_plan(world, "protocol", value=9)))
    assert reply.error == "PlanChanged"
    assert "9" in reply.message
    assert str(PROTOCOL) in reply.message


def test_a_plan_of_another_package_version_is_refused(make_world: Make) -> None:
    world = make_world()
    reply = world.ask("prepare", **world.signed(changed_plan(world, "package", value="99.0")))
    assert reply.error == "PlanChanged"
    assert "99.0" in reply.message


def test_other_code_than_the_plan_names_is_refused(make_world: Make) -> None:
    world = make_world()
    reply = world.ask("prepare", **world.signed(changed_plan(world, "package_sha256", value="0" * 64)))
    assert reply.error == "PlanChanged"
    assert "other code (00000000)" in reply.message


def test_an_unapproved_plan_is_refused_though_its_signature_holds(make_world: Make) -> None:
    world = make_world()
    plan = changed_plan(world, "study", value="another")
    good = sign(world.run.key(), PLAN_DOMAIN, plan.digest)
    reply = world.ask("prepare", plan=plan.as_bytes(), signature=good)
    assert reply.error == "NotApproved"
    assert plan.digest[:8] in reply.message


def test_a_site_that_is_not_on_the_roster_refuses(make_world: Make) -> None:
    world = make_world()
    plan = changed_plan(world, "cohort", "units", value={"east": 2, "south": 2})
    reply = world.ask("prepare", **world.signed(plan))
    assert reply.error == "NotApproved"
    assert "roster" in reply.message


def test_another_keys_signature_is_refused(make_world: Make) -> None:
    world = make_world()
    other = create_key(world.folder / "other.key")
    reply = world.ask("prepare", signature=sign(other, PLAN_DOMAIN, world.plan.digest))
    assert reply.error == "NotApproved"


@pytest.mark.parametrize("signature", ["", "zz", "ab" * 63, "é" * 128])
def test_a_malformed_signature_is_refused(make_world: Make, signature: str) -> None:
    assert make_world().ask("prepare", signature=signature).error == "NotApproved"


def test_a_signature_of_another_domain_is_refused(make_world: Make) -> None:
    world = make_world()
    reply = world.ask("prepare", signature=sign(world.run.key(), b"undertone/1/release\x00", world.plan.digest))
    assert reply.error == "NotApproved"


def test_no_byte_of_the_plan_can_change(make_world: Make) -> None:
    world = make_world()
    site, plan = world.node(), world.plan.as_bytes()
    for position in range(0, len(plan), 11):
        changed = bytearray(plan)
        changed[position] ^= 1
        reply = site.handle(world.request(plan=bytes(changed)))
        assert reply.error in {"PlanChanged", "NotApproved"}, (position, plan[position - 20 : position + 20])
    assert not world.rows()


@pytest.mark.parametrize(("round_", "attempt"), [(0, 1), (1, 0), (2, 1), (1, 2), (-1, 1), (10**9, 1)])
def test_rounds_and_attempts_outside_the_plan_are_refused(make_world: Make, round_: int, attempt: int) -> None:
    world = make_world()
    for kind in ("prepare", "plain_input"):
        assert world.ask(kind, round=round_, attempt=attempt).error == "PlanChanged"


@pytest.mark.parametrize("state", [None, np.zeros(DIMENSION + 1, dtype=np.float32), np.zeros(0, dtype=np.float32)])
def test_a_state_of_another_length_is_refused(make_world: Make, state: Any) -> None:
    assert make_world().ask("prepare", state=state).error == "ProtocolError"


def test_an_attempt_is_answered_once(make_world: Make) -> None:
    world = make_world(sampling_rate=0.5, max_attempts=3)
    world.ask("prepare")
    assert world.ask("plain_input").words is not None
    for kind in ("prepare", "plain_input"):
        reply = world.ask(kind)
        assert (reply.error, reply.words) == ("ReplayedAttempt", None)
    assert world.charges("north") == [(1, 1)]


def test_with_sampling_a_second_attempt_of_a_round_is_answered_with_fresh_coins(make_world: Make) -> None:
    world = make_world({"north": 40, "east": 4}, sampling_rate=0.5, max_attempts=3)
    for attempt in (1, 2):
        assert world.ask("prepare", attempt=attempt).error == ""
        assert world.ask("plain_input", attempt=attempt).words is not None
    assert set(world.rows(attempt=1)) != set(world.rows(attempt=2))  # 20 coins: equal once in a million
    assert world.charges("north") == [(1, 1), (1, 2)]


def test_without_sampling_a_second_attempt_of_an_answered_round_is_refused(make_world: Make) -> None:
    world = make_world(max_attempts=2)
    world.ask("prepare")
    world.ask("plain_input")
    reply = world.ask("prepare", attempt=2)
    assert reply.error == "ReplayedAttempt"
    assert "attempt 1" in reply.message


def test_of_two_processes_that_answer_two_attempts_of_a_round_the_ledger_stops_the_second(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked into the ledger before either had charged; only the charge itself can tell."""
    monkeypatch.setattr("undertone_client.node._refuse_replay", lambda *_: None)
    world = make_world(max_attempts=2)
    for attempt in (1, 2):
        assert world.ask("prepare", attempt=attempt).error == ""
    assert world.ask("plain_input", attempt=1).words is not None
    reply = world.ask("plain_input", attempt=2)
    assert (reply.error, reply.words) == ("ReplayedAttempt", None)
    assert world.charges("north") == [(1, 1)]


def test_without_sampling_a_second_attempt_of_an_unanswered_round_goes_on(make_world: Make) -> None:
    world = make_world(max_attempts=2)
    world.ask("prepare")
    assert world.ask("prepare", attempt=2).error == ""
    assert world.ask("plain_input", attempt=2).words is not None


def test_the_node_stops_at_the_plans_attempts_by_its_own_ledger(make_world: Make) -> None:
    world = make_world(sampling_rate=0.5, rounds=2, max_attempts=2)
    for attempt in (1, 2):
        world.ask("prepare", attempt=attempt)
        world.ask("plain_input", attempt=attempt)
    world.ask("prepare", round=2)
    reply = world.ask("plain_input", round=2)
    assert (reply.error, reply.words) == ("BudgetExceeded", None)


def test_plain_input_without_prepare_is_refused(make_world: Make) -> None:
    reply = make_world().ask("plain_input")
    assert (reply.error, reply.words) == ("ProtocolError", None)


@pytest.mark.parametrize("kind", ["prepare", "plain_input"])
def test_another_state_than_was_prepared_is_refused(make_world: Make, kind: str) -> None:
    world = make_world()
    world.ask("prepare")
    reply = world.ask(kind, state=START + np.float32(1e-7))
    assert reply.error == "PlanChanged"
    assert world.charges("north") == []


def kill_at_block(monkeypatch: pytest.MonkeyPatch, block: int) -> list[int]:
    """Raise `Killed` in the method's call number `block` (from 1); lists the units of each call that finished."""
    computed: list[int] = []
    rows = DummyMethod.rows

    def counted(self: DummyMethod, base: object, state: Any, units: Any, progress: Any) -> Any:
        if len(computed) + 1 == block:
            raise Killed
        computed.append(sum(bool(unit.latents.any()) for unit in units))  # the rest are dummies
        return rows(self, base, state, units, progress)

    monkeypatch.setattr(DummyMethod, "rows", counted)
    monkeypatch.setattr(RowWorker, "keeps_apart", lambda _worker: True)  # it would make rows of random data
    return computed


@pytest.mark.parametrize("block", [1, 2, 4])
def test_coins_and_finished_rows_survive_a_kill(make_world: Make, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    world = make_world({"north": 40, "east": 4}, sampling_rate=0.6, max_attempts=2, micro_batch=2)
    with monkeypatch.context() as patch:
        kill_at_block(patch, block)
        with pytest.raises(Killed):
            world.node(entropy=InsecureTestEntropy(1)).handle(world.request())
    before = world.rows()
    assert len(before) == 2 * (block - 1)
    with monkeypatch.context() as patch:
        computed = kill_at_block(patch, 10**6)
        assert world.node(entropy=InsecureTestEntropy(2)).handle(world.request()).error == ""
    after = world.rows()
    assert sum(computed) == len(after) - len(before)  # no row twice
    assert all(np.array_equal(after[unit], row) for unit, row in before.items())
    coins = InsecureTestEntropy(1)  # whose coins counted: the first node's, not the second's
    units = sorted({row["patient_id"] for row in world.records["north"]})
    assert set(after) == set(expected_sample(units, coins, 0.6))


def expected_sample(units: list[str], coins: InsecureTestEntropy, rate: float) -> list[str]:
    numerator, denominator = rate.as_integer_ratio()
    return [unit for unit in units if coins.bits(denominator.bit_length() - 1) < numerator]


def test_a_restart_gives_the_rows_of_an_undisturbed_run(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world({"north": 12, "east": 4}, micro_batch=2)
    with monkeypatch.context() as patch:
        kill_at_block(patch, 3)
        with pytest.raises(Killed):
            world.node().handle(world.request())
    world.ask("prepare")
    for patient, row in world.rows().items():
        np.testing.assert_array_equal(row, oracle_row(world, "north", patient))


def test_a_unit_without_sample_still_lets_the_site_answer(make_world: Make) -> None:
    world = make_world(sampling_rate=1e-9, max_attempts=2)
    world.ask("prepare")
    words = world.ask("plain_input").words
    assert words is not None
    assert not words.any()
    assert words.shape == (DIMENSION,)


def test_nothing_leaves_when_the_charge_fails(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.ask("prepare")

    def fails(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "charge", fails)
        reply = world.ask("plain_input")
    assert (reply.error, reply.words) == ("SiteFault", None)
    assert world.charges("north") == []
    assert world.ask("plain_input").words is not None  # nothing was sent, so it may still be


def test_the_charge_is_durable_before_the_answer(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.ask("prepare")

    kill_before(monkeypatch, node, "Reply")
    with pytest.raises(Killed):
        world.ask("plain_input")
    assert world.charges("north") == [(1, 1)]


def test_coins_and_rows_are_forgotten_before_the_answer_and_their_sum_with_it(make_world: Make) -> None:
    world = make_world(keep_rows=False)
    with at("preparing/sum durable"), pytest.raises(Killed):
        world.ask("prepare")
    assert world.rows()
    world.ask("prepare")
    assert not world.rows()
    assert list((world.sites["north"] / "sums").iterdir())
    world.ask("plain_input")
    assert not list((world.sites["north"] / "sums").iterdir())
    assert b"patient-0" not in (world.sites["north"] / "state.sqlite").read_bytes()


def test_a_policy_can_list_the_models_it_takes(make_world: Make) -> None:
    world = make_world()
    ours = files_digest(world.plan.model.files)
    world.allow("north", models=["0" * 64, ours])
    assert world.ask("prepare").error == ""
    world.allow("north", models=["0" * 64])
    reply = world.ask("prepare")
    assert (reply.error, reply.words) == ("NotApproved", None)
    assert f"models: the plan says {world.plan.model.base[:20]}" in reply.message
    (path,) = (world.sites["north"] / "registered").iterdir()
    path.unlink()
    with pytest.raises(NotApproved, match="does not take the base model"):
        register(SiteDir(world.sites["north"]), world.plan, data_of(world.sites["north"]))
    assert not path.exists()
    world.allow("north", models=[])
    assert world.ask("prepare").error == "NotApproved"


def test_a_base_model_that_changed_in_place_is_loaded_again(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, tiny_base: Any, tmp_path: Path
) -> None:
    monkeypatch.undo()  # the real loader
    folder, loads = Path(shutil.copytree(tiny_base, tmp_path / "base")), []
    monkeypatch.setattr(preparing, "load_base", lambda *_: loads.append(1))
    preparing._loaded.cache_clear()
    for ending in ("", "", " "):
        with (folder / "unet" / "config.json").open("a", encoding="utf-8") as stream:
            stream.write(ending)
        files = digest_of(dict(pin(str(folder)).files))
        preparing._loaded(str(folder), None, "cpu", files, "dpagg-ti")
    preparing._loaded.cache_clear()
    assert len(loads) == 2
