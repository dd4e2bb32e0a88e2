"""A withdrawn unit is never read again, and a forgotten study leaves its charges alone (PRIVACY 12, 13, 17)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.approvals import approved, give_budget
from tests.support.dummy import DummyBase
from tests.support.entropy import InsecureTestEntropy
from tests.support.failpoints import Killed, at, meanwhile
from tests.support.images import write_images
from tests.support.world import World, data_of, describe_data, oracle_row, secure, without_data
from undertone.errors import DataError, FolderError, InputError, NotApproved, UnitChanged
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.approval.approvals import approval_of, keep_approval
from undertone_client.compute import erasing, latents, summing
from undertone_client.compute.erasing import Withdrawn, forget_study, study_called, withdraw_unit
from undertone_client.compute.latent_files import latent_files
from undertone_client.registration.checking import check_site
from undertone_client.registration.registered import register
from undertone_client.registration.stored import registered, registration_of
from undertone_client.registration.units import meanings
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.budget import register_cap, reserve
from undertone_client.site.datasets import DataSet
from undertone_client.site.enrol import update_data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdraw

Make = Callable[..., World]
PATIENTS = {"patient-0", "patient-1", "patient-2"}


def north(world: World) -> SiteDir:
    return SiteDir(world.sites["north"])


def metadata(world: World) -> Path:
    return world.folder / "data" / "north" / "metadata.csv"


def units_of(world: World) -> set[str]:
    table = registered(north(world), world.plan)
    assert table is not None
    return set(table.units())


def again(world: World) -> set[str]:
    """The registered units after the registration was made anew."""
    (north(world).folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    return set(register(north(world), world.plan, data_of(north(world))).units())


def images_of(world: World, patient: str) -> list[Path]:
    rows = [row for row in world.records["north"] if row["patient_id"] == patient]
    return [world.folder / "data" / "north" / row["file_name"] for row in rows]


def kept_latents(world: World) -> np.ndarray:
    (path,) = (north(world).cache / "data").glob("latents-????????????????-????????????????.npy")
    return np.load(path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each call of the encoder is given that are no padding."""
    counts: list[int] = []
    encode = DummyBase.encode

    def counting(self: DummyBase, images: Any) -> Any:
        counts.append(int(images.any(axis=(1, 2, 3)).sum()))
        return encode(self, images)

    monkeypatch.setattr(DummyBase, "encode", counting)
    monkeypatch.setattr(latents, "_images_at_once", lambda _base, _log: 16)  # it would encode random images
    return counts


# --- before a registration ------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["patient-1", "Patient-01", " patient-1 "])
def test_a_new_registration_leaves_a_withdrawn_unit_out(make_world: Make, spelling: str) -> None:
    world = make_world()
    withdraw_unit(north(world), "data", spelling)
    assert again(world) == PATIENTS - {"patient-1"}


def test_metadata_that_list_it_again_bring_nothing_back(make_world: Make) -> None:
    world = make_world()
    withdraw_unit(north(world), "data", "patient-1")
    text = metadata(world).read_text(encoding="utf-8")
    metadata(world).write_text(text.replace("patient-1", "PATIENT-1"), encoding="utf-8")
    update_data_set(north(world), "data")
    assert again(world) == PATIENTS - {"patient-1"}


def test_a_site_that_all_have_left_registers_nothing(make_world: Make) -> None:
    world = make_world()
    for patient in PATIENTS:
        withdraw_unit(north(world), "data", patient)
    with pytest.raises(DataError, match="all units of data set data were withdrawn"):
        again(world)


# --- after it: a zero row, and no error -------------------------------------------------------------


def test_a_withdrawn_unit_is_a_zero_row_from_the_next_attempt_on(make_world: Make, seen: list[int]) -> None:
    world = make_world(rounds=2, max_attempts=2)
    assert world.ask("prepare").error == ""
    assert world.rows()["patient-1"].any()
    oracle = {patient: oracle_row(world, "north", patient) for patient in PATIENTS}
    withdraw_unit(north(world), "data", "patient-1")
    for path in images_of(world, "patient-1"):
        path.write_bytes(b"whoever reads this names it in node.log")
    before = sum(seen)
    assert world.ask("prepare", round=2).error == ""
    assert world.ask("plain_input", round=2).error == ""
    rows = world.rows(round_=2)
    assert set(rows) == PATIENTS
    assert {patient for patient, row in rows.items() if not row.any()} == {"patient-1"}
    np.testing.assert_array_equal(rows["patient-0"][:-1], oracle["patient-0"][:-1])
    assert sum(seen) == before, "nothing was encoded anew"
    assert "patient-1" not in world.log()


def test_coins_go_on_falling_over_the_registered_units(make_world: Make) -> None:
    world = make_world({"north": 40, "east": 4}, sampling_rate=0.5, max_attempts=2)
    assert world.node(entropy=InsecureTestEntropy(3)).handle(world.request()).error == ""
    first = set(world.rows())
    withdraw_unit(north(world), "data", min(first))
    assert world.node(entropy=InsecureTestEntropy(3)).handle(world.request(attempt=2)).error == ""
    assert set(world.rows(attempt=2)) == first
    assert not world.rows(attempt=2)[min(first)].any()


@pytest.mark.parametrize("summing", [False, True])
def test_the_rest_of_a_site_answers_as_if_the_unit_had_no_image(make_world: Make, summing: bool) -> None:
    """What leaves is bit by bit what leaves where the unit's files are gone: nobody outside can tell."""
    answers = []
    for leaves in (True, False):
        world = make_world(summing=summing)
        (north(world).folder / "secret.key").write_bytes(bytes(32))
        approved(north(world), world.plan)
        give_budget(without_data(north(world)), world.plan, world.folder / "data" / "north")
        again(world)
        if leaves:
            withdraw_unit(north(world), "data", "patient-1")
        else:
            for path in images_of(world, "patient-1"):
                path.unlink()
        assert world.ask("prepare").error == ""
        answers.append(world.ask("plain_input").words)
        shutil.rmtree(world.folder)
    assert answers[0] is not None
    np.testing.assert_array_equal(answers[0], answers[1])
    assert answers[0].any()


def test_between_prepare_and_the_answer_its_row_becomes_zero(make_world: Make) -> None:
    world = make_world()
    world.ask("prepare")
    done = withdraw_unit(north(world), "data", "patient-1")
    assert (done.new, done.rows) == (True, 1)
    others = {unit: row for unit, row in world.rows().items() if unit != "patient-1"}
    assert not world.rows()["patient-1"].any()
    assert all(row.any() for row in others.values())
    assert world.ask("plain_input").error == ""


def test_so_it_does_in_the_middle_of_a_round_of_secure_aggregation(make_world: Make) -> None:
    world = make_world(aggregation=secure(3))
    with meanwhile("rounds/prepared", lambda: withdraw_unit(north(world), "data", "patient-1")) as trace:
        world.run_rounds()
    assert trace.hits["rounds/prepared"] == 1
    assert not world.rows()["patient-1"].any()
    assert world.charges("north") == [(1, 1)], "and no error, no second attempt"


def test_a_process_that_ran_through_the_withdrawal_leaves_a_zero_row_too(make_world: Make) -> None:
    world, done = make_world(micro_batch=1), list[Withdrawn]()
    with meanwhile("preparing/rows computed", lambda: done.append(withdraw_unit(north(world), "data", "patient-0"))):
        assert world.ask("prepare").error == ""
    assert done[0].rows == 0, "its row was not there yet"
    assert not world.rows()["patient-0"].any()
    assert world.rows()["patient-2"].any()


def test_latents_that_were_written_after_the_withdrawal_are_deleted_by_the_next_attempt(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=2)
    with meanwhile("latents/computed", lambda: withdraw_unit(north(world), "data", "patient-1")):
        assert world.ask("prepare").error == ""
    assert kept_latents(world)[2:4].any()
    assert world.ask("prepare", round=2).error == ""
    assert not kept_latents(world)[2:4].any()
    assert kept_latents(world)[[0, 1, 4, 5]].any(axis=(1, 2, 3)).all()


def test_an_unfinished_sum_is_made_anew_and_a_finished_one_is_said(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world({"north": 8, "east": 4}, micro_batch=1, summing=True, rounds=2, max_attempts=2)
    monkeypatch.setattr(summing, "_SECONDS_BETWEEN_WRITES", -1.0)
    with at("summing/batch summed", 3), pytest.raises(Killed):
        world.ask("prepare")
    sums = north(world).folder / "sums"
    assert len(list(sums.iterdir())) == 1
    assert withdraw_unit(north(world), "data", "patient-0").sums == 0
    assert list(sums.iterdir()) == []
    assert world.ask("prepare").error == ""
    done = withdraw_unit(north(world), "data", "patient-1")
    assert (done.sums, done.rows) == (1, 0)
    assert world.ask("plain_input").error == ""


# --- what is deleted and what stays -----------------------------------------------------------------


def test_latents_and_words_of_a_withdrawn_unit_are_deleted(make_world: Make) -> None:
    world = make_world()
    world.ask("prepare")
    assert kept_latents(world)[2:4].any()
    seals = next((north(world).cache / "data").glob("*.seals.npy"))
    assert np.load(seals)[2:4].any()
    done = withdraw_unit(north(world), "data", "patient-1")
    assert done.files == 1
    assert not kept_latents(world)[2:4].any()
    assert not np.load(seals)[2:4].any()
    assert kept_latents(world)[[0, 1, 4, 5]].any(axis=(1, 2, 3)).all()
    table = registered(north(world), world.plan)
    assert table is not None
    assert [record.columns for record in table.records][1:4] == [{"finding": "clear"}, {}, {}]
    assert units_of(world) == PATIENTS, "the registration still says who was in it"


def test_withdrawing_twice_is_no_error_and_finishes_what_was_begun(make_world: Make, monkeypatch: Any) -> None:
    world = make_world()
    world.ask("prepare")

    def death(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase_latents", death)
        with pytest.raises(KeyboardInterrupt):
            withdraw_unit(north(world), "data", "patient-1")
    assert kept_latents(world)[2:4].any()
    assert again(world) == PATIENTS - {"patient-1"}, "the tombstone is up before anything is deleted"
    done = withdraw_unit(north(world), "data", "patient-1")
    assert not done.new


def test_only_a_unit_that_the_data_set_has_can_be_withdrawn(make_world: Make) -> None:
    world = make_world()
    with pytest.raises(DataError, match="no unit here is called patient-9"):
        withdraw_unit(north(world), "data", "patient-9")
    with pytest.raises(InputError, match="no data set skin: there are data"):
        withdraw_unit(north(world), "skin", "patient-1")
    assert not (north(world).folder / "datasets" / "withdrawn.jsonl").exists()


def test_damaged_tombstones_stop_a_site_and_do_not_bring_anybody_back(make_world: Make) -> None:
    world = make_world()
    withdraw_unit(north(world), "data", "patient-1")
    path = north(world).folder / "datasets" / "withdrawn.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    reply = world.ask("prepare")
    assert (reply.error, reply.words) == ("SiteFault", None) or "site cannot take part" in reply.message
    assert not world.rows()


def test_node_check_looks_at_no_withdrawn_image(make_world: Make) -> None:
    world = make_world()
    for path in images_of(world, "patient-1"):
        path.write_bytes(b"none")
    assert len(check_site(north(world)).problems) == 2
    withdraw_unit(north(world), "data", "patient-1")
    checked = check_site(north(world))
    assert (checked.problems, checked.records, checked.units) == ([], 4, 2)
    lines = metadata(world).read_text(encoding="utf-8").splitlines()
    metadata(world).write_text("\n".join(line for line in lines if "patient-1" not in line), encoding="utf-8")
    assert check_site(north(world)).problems == [], "it is meant to be missing"


# --- registrations name their data set --------------------------------------------------------------


def second(world: World) -> DataSet:
    folder = world.folder / "data" / "skin"
    names = write_images(folder, 4, first=300)
    lines = [f"{name},skin-{index // 2},mole" for index, name in enumerate(names)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,patient_id,finding", *lines]), encoding="utf-8")
    return describe_data(north(world), folder, world.plan, name="skin")


def test_a_plan_runs_over_the_data_set_that_was_registered_for_it(make_world: Make) -> None:
    world = make_world()
    skin = second(world)
    with pytest.raises(NotApproved, match=r"has the records of data here, not of skin; `undertone node forget`"):
        register(north(world), world.plan, skin)
    forget_study(north(world), world.plan.digest)
    register(north(world), world.plan, skin)
    found = registration_of(north(world), world.plan)
    assert found is not None
    assert (found.data, found.study) == (skin, "dummy-study")
    reply = world.ask("prepare")
    assert (reply.error, "another data set" in reply.message) == ("NotApproved", True)
    approve_for(world, world.plan, "skin")
    reply = world.ask("prepare")
    assert (reply.error, "draws on the budget of another data set" in reply.message) == ("PlanChanged", True)
    assert not world.rows()


def approve_for(world: World, plan: Plan, data_set: str) -> None:
    approval = approval_of(north(world), plan.digest)
    assert approval is not None
    document = approval.document.model_copy(update={"data_set": data_set})
    keep_approval(north(world), approval.model_copy(update={"document": document}))


def test_a_study_reads_the_data_set_that_it_was_approved_for(make_world: Make) -> None:
    world = make_world()
    skin = second(world)
    other = world.plan.model_copy(update={"study": "another"})
    figures = other.cohort.model_copy(update={"units": dict(other.cohort.units) | {"north": skin.publish}})
    other = other.model_copy(update={"cohort": figures})
    changes = world.signed(other)
    register(north(world), other, skin)
    approve_for(world, other, "skin")
    with Ledger.open(north(world).ledger) as ledger:
        register_cap(ledger, skin)
        reserve(ledger, other, "skin")
    assert world.node().handle(world.request(**changes)).error == ""
    with AttemptStore(north(world).attempt_store) as store:
        assert set(store.rows((other.digest, 1, 1))) == {"skin-0", "skin-1"}
    assert sorted(path.name for path in north(world).cache.iterdir()) == ["skin"]


@pytest.mark.parametrize(("unit", "column"), [("record", None), ("patient", "finding"), ("site", None)])
def test_a_plan_with_another_unit_is_refused(make_world: Make, unit: str, column: str | None) -> None:
    world = make_world()
    changed = world.plan.model_dump(mode="json")
    changed["privacy"]["unit"], changed["data"]["unit_column"] = unit, column
    other = type(world.plan).model_validate(changed)
    with pytest.raises(UnitChanged, match=r"protects each .*, data set data each patient by patient_id"):
        register(north(world), other, data_of(north(world)))


@pytest.mark.parametrize("patient", ["patient-8", "patient-0"])
def test_an_image_that_did_not_go_through_the_checks_is_not_registered(make_world: Make, patient: str) -> None:
    world = make_world()
    (name,) = write_images(world.folder / "data" / "north", 1, first=90)
    with metadata(world).open("a", encoding="utf-8") as stream:
        stream.write(f"{name},{patient},mass\n")
    with pytest.raises(DataError, match=r"1 records are new to data set data, .*scan-0090.* at .*csv, line 8"):
        again(world)
    update_data_set(north(world), "data")
    table = register(north(world), world.plan, data_of(north(world)))
    assert len(table.records) == 7


def test_who_did_not_go_through_the_checks_is_not_registered(make_world: Make) -> None:
    world = make_world()
    lines = metadata(world).read_text(encoding="utf-8").replace("patient-1", "patient-8")
    metadata(world).write_text(lines, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"2 records are new to data set data, by name, unit or contents, .*csv, line 4"
    ):
        again(world)
    update_data_set(north(world), "data")
    assert set(register(north(world), world.plan, data_of(north(world))).units()) == {
        "patient-0",
        "patient-2",
        "patient-8",
    }


def test_an_approved_study_keeps_its_records_when_others_join(make_world: Make) -> None:
    world = make_world()
    (name,) = write_images(world.folder / "data" / "north", 1, first=90)
    with metadata(world).open("a", encoding="utf-8") as stream:
        stream.write(f"{name},patient-8,mass\n")
    assert update_data_set(north(world), "data").joined == 1
    assert units_of(world) == PATIENTS
    assert again(world) == PATIENTS | {"patient-8"}


# --- unit-of ----------------------------------------------------------------------------------------


def test_an_id_is_found_in_any_spelling_with_the_studies_that_have_it(make_world: Make) -> None:
    world = make_world()
    second(world)
    for text in ("patient-1", "PATIENT-001", " patient\u20111"):
        (meaning,) = meanings(north(world), text)
        assert (meaning.data.name, meaning.spellings, meaning.withdrawn) == ("data", ["patient-1"], False)
        ((registration, places),) = meaning.held
        assert (registration.plan_digest, places) == (world.plan.digest, [2, 3])
    (meaning,) = meanings(north(world), "skin-1")
    assert (meaning.data.name, meaning.held) == ("skin", ())
    withdraw(north(world), data_of(north(world)), "patient-1")
    assert meanings(north(world), "patient-1")[0].withdrawn
    with pytest.raises(DataError, match="no unit here is called skin-1"):
        meanings(north(world), "skin-1", "data")
    with pytest.raises(InputError, match="no data set bone"):
        meanings(north(world), "skin-1", "bone")


def test_coins_say_nothing_about_who_is_held(make_world: Make) -> None:
    world = make_world({"north": 40, "east": 4}, sampling_rate=0.5, max_attempts=2)
    world.ask("prepare")
    chosen, all_units = set(world.rows()), units_of(world)
    assert chosen < all_units
    for unit in (min(chosen), min(all_units - chosen)):
        (meaning,) = meanings(north(world), unit)
        assert len(meaning.held) == 1


# --- forget -----------------------------------------------------------------------------------------


def test_forgetting_keeps_the_ledger_and_deletes_the_rest(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=2)
    world.ask("prepare")
    world.ask("plain_input")
    world.ask("prepare", round=2)
    site = north(world)
    with Ledger.open(site.ledger, read_only=True) as ledger:
        before = [entry.hash for entry in ledger.entries()]
    done = forget_study(site, world.plan.digest)
    assert (done.charges, done.attempts, done.latents) == (1, 2, True)
    with Ledger.open(site.ledger, read_only=True) as ledger:
        assert [entry.hash for entry in ledger.entries()] == before
    assert not list((site.cache / "data").iterdir())
    assert not list((site.folder / "registered").iterdir())
    assert not world.rows()
    assert not world.rows(round_=2)
    for path in site.folder.rglob("*"):
        assert not path.is_file() or b"patient-1" not in path.read_bytes(), path
    reply = world.ask("prepare", round=2)
    assert (reply.error, reply.words) == ("NotApproved", None)


def test_forgetting_ends_sessions_of_secure_aggregation_and_sums(make_world: Make) -> None:
    world = make_world(aggregation=secure(3), summing=True)
    with at("rounds/prepared"), pytest.raises(Killed):
        world.run_rounds()
    site = north(world)
    assert list(site.sessions.iterdir())
    assert list((site.folder / "sums").iterdir())
    done = forget_study(site, world.plan.digest[:8])
    assert done.sessions == 1
    assert not list(site.sessions.iterdir())
    assert not list((site.folder / "sums").iterdir())


def test_latents_that_another_study_uses_stay(make_world: Make) -> None:
    world = make_world()
    world.ask("prepare")
    changed = world.plan.model_dump(mode="json") | {"study": "another-study"}
    other = type(world.plan).model_validate(changed)
    register(north(world), other, data_of(north(world)))
    assert not forget_study(north(world), world.plan.digest).latents
    table = registered(north(world), other)
    assert table is not None
    assert len(latent_files(north(world).cache / "data", table)) == 2
    assert forget_study(north(world), other.digest).latents
    assert not list((north(world).cache / "data").iterdir())


@pytest.mark.parametrize("digest", ["", "0123", "f" * 64])
def test_a_study_is_named_by_its_digest(make_world: Make, digest: str) -> None:
    world = make_world()
    with pytest.raises(FolderError, match=rf"no registered study begins.*{world.plan.digest[:16]} \(dummy-study\)"):
        study_called(north(world), digest)
    with pytest.raises(FolderError, match="no registered study"):
        study_called(north(world), world.plan.digest[:7])


def test_what_died_while_forgetting_is_finished_by_the_same_command(make_world: Make, monkeypatch: Any) -> None:
    world = make_world()
    world.ask("prepare")

    def death(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "_forget_latents", death)
        with pytest.raises(KeyboardInterrupt):
            forget_study(north(world), world.plan.digest)
    assert forget_study(north(world), world.plan.digest).latents
    assert not list((north(world).folder / "registered").iterdir())
