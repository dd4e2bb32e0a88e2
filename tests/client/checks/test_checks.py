"""Each check of a site in each status that it can have."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.approvals import HUB, approved
from tests.support.dummy import DummyMethod
from tests.support.sharded import MEMORY, ROW
from tests.support.studies import study_with
from tests.support.world import World, data_of
from undertone.models import devices
from undertone.preflight.running import run
from undertone.preflight.verdict import Verdict, worst
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.study.schema import parse_study
from undertone_client.approval.approvals import approval_of, keep_approval
from undertone_client.checks import machine
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.registry import CHECKS, SLOW
from undertone_client.compute import preparing
from undertone_client.compute.erasing import withdraw_unit
from undertone_client.registration.registered import register
from undertone_client.site import budget
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.datasets import DataSet, write_data_set
from undertone_client.site.enrol import update_data_set
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]
NOW = datetime.now(UTC)
ALL = CHECKS | SLOW


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world({"north": 46, "east": 4})


def inspect(world: World, *plans: Plan, **changes: Any) -> Inspection:
    values: dict[str, Any] = {"now": datetime.now(UTC), "given": plans or (world.plan,)} | changes
    return Inspection(SiteDir(world.sites["north"]), **values)


def verdict(name: str, looked_at: Inspection) -> Verdict:
    (found,) = run({name: ALL[name]}, looked_at)
    assert found.name == name
    assert found.status == "PASS" or found.remedy
    assert found.sentence.isprintable()
    return found


def says(name: str, looked_at: Inspection, status: str, words: str = "") -> Verdict:
    found = verdict(name, looked_at)
    assert (found.status, words in found.sentence) == (status, True), found
    return found


def settings(world: World, name: str, old: str, new: str) -> None:
    path = world.sites["north"] / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def no_plan(world: World) -> Inspection:
    for path in (world.sites["north"] / "approved").glob("*.json"):
        path.unlink()
    return inspect(world, given=())


def changed(part: Any, **values: Any) -> Any:
    """A copy of a plan, or of a part of one, that no coordinator made."""
    return part.model_copy(update=values)


# --- the whole list -----------------------------------------------------------------------------------


def test_a_site_as_it_was_made_passes_all_but_the_audit_log_that_it_does_not_have_yet(world: World) -> None:
    found = {one.name: one.status for one in run(ALL, inspect(world))}
    assert found == dict.fromkeys(ALL, "PASS") | {"audit log": "WARN"}


def test_each_name_in_the_list_is_that_of_its_verdicts(world: World) -> None:
    assert [one.name for one in run(ALL, inspect(world))] == list(ALL)


def test_a_check_that_ends_with_an_error_has_failed_and_the_others_go_on(world: World) -> None:
    def broken(_: Inspection) -> Verdict:
        raise RuntimeError("patient-7 in images/scan-0001.png\nwith a second line")

    first, second = run({"broken": broken, "clock": CHECKS["clock"]}, inspect(world))
    assert (first.status, first.sentence) == ("FAIL", "this could not be checked: RuntimeError")
    assert "patient-7" in first.details[0]
    assert first.details[0].isprintable()
    assert second.status == "PASS"


def test_the_worst_of_some() -> None:
    assert worst([]) == "PASS"
    assert worst(["PASS", "WARN", "PASS"]) == "WARN"
    assert worst(["WARN", "FAIL", "PASS"]) == "FAIL"


# --- the machine ----------------------------------------------------------------------------------------


def test_clock(world: World) -> None:
    says("clock", inspect(world), "PASS", "coordinator's clock was not asked")
    says("clock", inspect(world, now=datetime(2025, 12, 31, tzinfo=UTC)), "FAIL", "before this version")


@pytest.mark.parametrize("name", ["node.toml", "ledger.sqlite", "audit/audit-000001.jsonl"])
def test_a_clock_behind_the_sites_own_files(world: World, name: str) -> None:
    AuditLog(world.sites["north"]).append("plan expired", digest="ab" * 32)
    later = (datetime.now(UTC) + timedelta(minutes=4)).timestamp()
    os.utime(world.sites["north"] / name, (later, later))
    says("clock", inspect(world), "PASS")
    later += 120
    os.utime(world.sites["north"] / name, (later, later))
    found = says("clock", inspect(world), "WARN", "before files of SITE_DIR")
    assert Path(name).name in found.details[0]


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free))


def needed(world: World) -> int:
    """46 records of [4, 2, 2] float32 and their seals; 23 units' rows at p = 1 with a margin, 14 values each."""
    return 46 * (4 * 16 + 32) + (23 + 29) * 4 * 14


def test_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(world.sites["north"] / "cache")
    for free, status, words in [
        (machine._LEAST_FREE - 1, "FAIL", "is full"),
        (machine._LEAST_FREE + needed(world) - 1, "FAIL", "too little room"),
        (machine._LEAST_FREE + needed(world), "WARN", "hardly more room"),
        (machine._LEAST_FREE + 2 * needed(world) - 1, "WARN", "hardly more room"),
        (machine._LEAST_FREE + 2 * needed(world), "PASS", "room enough for the plans at hand"),
    ]:
        disk_with(monkeypatch, free)
        found = says("disk", inspect(world), status, words)
        assert str(free) in found.details[0]


def test_latents_that_are_there_need_no_more_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_with(monkeypatch, machine._LEAST_FREE + needed(world) - 1)
    (world.sites["north"] / "cache" / "latents-0.npy").write_bytes(b"x" * 4096)
    says("disk", inspect(world), "WARN", "hardly")
    (world.sites["north"] / "cache" / "latents-0.npy").unlink()
    with (world.sites["north"] / "cache" / "hole.npy").open("wb") as stream:
        stream.truncate(1 << 20)  # made, not written
    says("disk", inspect(world), "FAIL")


def test_rows_that_are_kept_need_room_in_each_round_and_sums_little(
    make_world: Make, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    many = changed(world.plan, privacy=changed(world.plan.privacy, rounds=10**6, max_attempts=10**6))
    disk_with(monkeypatch, 1 << 30)
    says("disk", inspect(world, many), "FAIL", "too little room")
    settings(world, "node.toml", "keep_rows = true", "keep_rows = false")
    says("disk", inspect(world, many), "PASS")
    summing = changed(world.plan, method=changed(world.plan.method, options={"summing": True}))
    no_plan(world)
    (found,) = verdict("disk", inspect(world, summing)).details
    assert f"about {46 * (4 * 16 + 32) + 2 * 8 * 14} needed" in found


def test_what_is_kept_of_shards_needs_room_too(make_world: Make) -> None:
    """Each remembers two values; what is made of them takes as much as their latents."""
    world = make_world({"north": 46, "east": 4}, sharded={})
    latents, shards = 46 * (4 * 16 + 32), world.plan.cohort.units["north"]
    (found,) = verdict("disk", inspect(world)).details
    rows = (shards + ceil(6 * sqrt(shards))) * 4 * ROW
    assert f"about {2 * latents + 3 * shards * 4 * MEMORY + rows} needed" in found


def test_disk_without_a_base_model_or_a_plan(world: World, dummy_base: Path) -> None:
    gone = changed(world.plan, model=changed(world.plan.model, base=str(dummy_base / "nothing")))
    says("disk", inspect(world, gone), "WARN", "not known")
    assert says("disk", no_plan(world), "PASS").sentence == "the disk of SITE_DIR has room enough"


def test_device(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    says("device", inspect(world), "PASS", "there, and computes in float32")
    settings(world, "node.toml", 'device = "auto"', 'device = "cuda:7"')
    monkeypatch.setattr(devices, "present", lambda: ("cpu",))
    found = says("device", inspect(world), "FAIL", "is not there")
    assert "cuda:7" in found.details[0]


def test_a_dtype_that_the_device_does_not_have(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    settings(world, "node.toml", 'device = "auto"', 'device = ["cuda:0", "cpu"]')
    settings(world, "node.toml", 'dtype = "float32"', 'dtype = "bfloat16"')
    monkeypatch.setattr(devices, "present", lambda: ("cuda:0", "cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: False)
    says("device", inspect(world), "FAIL", "does not compute in bfloat16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda _: True)
    says("device", inspect(world), "PASS", "cuda:0, cpu: there, and computes in bfloat16")


# --- device memory ----------------------------------------------------------------------------------------


def test_device_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    says("device memory", inspect(world), "PASS", "one unit fits")
    monkeypatch.setattr(preparing, "choose", lambda _: ("cuda:0",))

    def too_large(*_: Any, **__: Any) -> Any:
        raise MemoryError("CUDA out of memory")

    for made in ("rows", "clipped_sum"):
        monkeypatch.setattr(DummyMethod, made, too_large)
    monkeypatch.setattr("undertone_client.compute.workers.free_memory", lambda _: None)
    found = says("device memory", inspect(world), "FAIL", f"one unit of plan {world.plan.digest[:8]} cannot be")
    assert "does not fit into the memory of cuda:0" in found.details[0]
    summing = changed(world.plan, method=changed(world.plan.method, options={"summing": True}))
    says("device memory", inspect(world, summing), "FAIL", "cannot be computed")


def test_device_memory_of_a_study_that_is_no_plan_yet(world: World, dummy_base: Path) -> None:
    study = parse_study(study_with({"data": {"unit_column": "patient_id"}}, str(dummy_base)))
    no_plan(world)
    says("device memory", inspect(world, given=(), study=study), "PASS", "one unit fits")
    found = says("device memory", inspect(world, given=()), "WARN", "no plan and no study to try")
    assert "--study" in found.remedy


def test_device_memory_and_disk_of_the_plans_that_the_site_has_approved(world: World) -> None:
    says("device memory", inspect(world, given=()), "PASS", "one unit fits")
    (found,) = says("disk", inspect(world, given=()), "PASS").details
    assert f"about {needed(world)} needed" in found


def test_plans_on_one_data_set_and_model_share_their_latents(world: World) -> None:
    another_data_set(world, world.folder / "data" / "east", 2)  # which is smaller, and takes no part here
    latents = 46 * (4 * 16 + 32)
    larger = changed(world.plan, study="larger")
    (found,) = says("disk", inspect(world, world.plan, larger), "PASS").details
    assert f"about {2 * needed(world) - latents} needed" in found
    (world.sites["north"] / "approved" / f"{world.plan.digest}.json").unlink()
    approved(SiteDir(world.sites["north"]), world.plan, data_set="xray")
    (found,) = says("disk", inspect(world, world.plan, larger), "PASS").details
    assert f"about {2 * needed(world) + 4 * (4 * 16 + 32) - latents} needed" in found


def test_a_dry_run_writes_nothing(world: World) -> None:
    before = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    list(run(ALL, inspect(world)))
    assert {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()} == before


# --- plans ------------------------------------------------------------------------------------------------


def test_code(world: World) -> None:
    says("code", inspect(world), "PASS", "is what the plans at hand name")
    other = changed(world.plan, package_sha256="ab" * 32)
    found = says("code", inspect(world, world.plan, other), "FAIL", f"plan {other.digest[:8]} names other code")
    assert "abababab" in found.details[0]
    says("code", inspect(world, changed(world.plan, package="0.0.1")), "FAIL", "names other code")


def test_base_models(world: World, dummy_base: Path, tmp_path: Path) -> None:
    says("base models", inspect(world), "PASS", "as pinned")
    copied = shutil.copytree(dummy_base, tmp_path / "copied")
    there = changed(world.plan, model=changed(world.plan.model, base=str(copied)))
    says("base models", inspect(world, world.plan, there), "PASS")
    (copied / "unet" / "config.json").write_bytes((copied / "unet" / "config.json").read_bytes() + b"\n")
    says("base models", inspect(world, world.plan, there), "FAIL", "is another one here")
    (copied / "model_index.json").unlink()
    says("base models", inspect(world, world.plan, there), "FAIL", "is not here, or not whole")
    world.allow("north", models=["ab" * 32])
    says("policy", inspect(world), "FAIL", f"plan {world.plan.digest[:8]}: models")


@pytest.mark.parametrize("name", ["code", "base models"])
def test_a_plan_that_was_approved_need_not_be_given_and_a_site_may_have_none(world: World, name: str) -> None:
    assert [plan.digest for plan in inspect(world, given=()).plans] == [world.plan.digest]
    assert says(name, inspect(world, given=()), "PASS", "").sentence != "no plan is approved yet"
    says(name, no_plan(world), "PASS", "no plan is approved yet")


def test_a_plan_whose_approval_is_over_is_not_at_hand(world: World) -> None:
    site = SiteDir(world.sites["north"])
    approved(site, world.plan, until=NOW.date())
    assert list(inspect(world, given=()).plans) == [world.plan]
    assert list(inspect(world, given=(), now=NOW + timedelta(days=1)).plans) == []
    approval = approval_of(site, world.plan.digest)
    assert approval is not None
    keep_approval(site, approval.model_copy(update={"withdrawn": "2026-11-29T12:00:00Z"}))
    assert list(inspect(world, given=()).plans) == []


def test_a_plan_whose_reservation_was_given_back_is_not_at_hand(world: World) -> None:
    with Ledger.open(world.sites["north"] / "ledger.sqlite") as ledger:
        budget.free(ledger, world.plan.digest, "expired")
    assert list(inspect(world, given=()).plans) == []
    assert says("data", inspect(world, given=()), "PASS").details[-1] == (
        "north: 46 records of 23 units, 0 approved plans"  # its registration is kept
    )
    (world.sites["north"] / "ledger.sqlite").unlink()
    assert list(inspect(world, given=()).plans) == [world.plan]


# --- data -------------------------------------------------------------------------------------------------


def test_data(world: World) -> None:
    says("data", inspect(world), "PASS", "every record can be read")
    image = world.folder / "data" / "north" / "images" / "scan-0003.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(image)
    found = says("data", inspect(world), "FAIL", "changed since they were registered")
    assert any("scan-0003.png of plan" in line and "holds other bytes" in line for line in found.details)
    site = SiteDir(world.sites["north"])
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    update_data_set(site, "data")
    register(site, world.plan, data_of(site))
    says("data", inspect(world), "WARN", "some look wrong")
    image.write_bytes(b"no image")
    found = says("data", inspect(world), "FAIL", "cannot be read")
    assert any("scan-0003.png" in line for line in found.details)
    assert found.details[-1] == "north: 46 records of 23 units, 1 approved plans"


@pytest.mark.parametrize(
    ("figure", "status"),
    [
        (23, "PASS"),
        (20, "PASS"),
        (28, "PASS"),
        (29, "WARN"),
        (18, "WARN"),
        (12, "WARN"),
        (46, "WARN"),
        (47, "FAIL"),
        (11, "FAIL"),
        (1, "FAIL"),
    ],
)
def test_units_against_a_data_sets_figure(world: World, figure: int, status: str) -> None:
    settings(world, "datasets/data.toml", "publish = 23", f"publish = {figure}")
    found = says("units", inspect(world), status, "" if status == "PASS" else "published for data is")
    assert found.details == (f"data: {figure} published, 23 found",)


def another_data_set(world: World, folder: Path, publish: int) -> None:
    values = data_of(world.sites["north"]).model_dump() | {"name": "xray", "folder": str(folder), "publish": publish}
    write_data_set(world.sites["north"], DataSet.model_validate(values))


def test_units_of_each_data_set(world: World) -> None:
    another_data_set(world, world.folder / "data" / "east", 5)
    found = says("units", inspect(world), "FAIL", "published for xray is far from what is there")
    assert found.details == ("data: 23 published, 23 found", "xray: 5 published, 2 found")


def test_a_data_set_without_a_unit_is_far_from_any_figure(world: World) -> None:
    empty = world.folder / "data" / "empty"
    (empty / "images").mkdir(parents=True)
    (empty / "metadata.csv").write_text("file_name,patient_id\n", encoding="utf-8")
    another_data_set(world, empty, 1)
    found = says("units", inspect(world), "FAIL", "published for xray is far from what is there")
    assert found.details[1] == "xray: 1 published, 0 found"


def test_a_unit_that_was_withdrawn_is_not_found(world: World) -> None:
    withdraw_unit(SiteDir(world.sites["north"]), "data", "patient-3")
    assert says("units", inspect(world), "PASS").details == ("data: 23 published, 22 found",)


def test_nothing_published(world: World) -> None:
    (world.sites["north"] / "datasets" / "data.toml").unlink()
    says("units", no_plan(world), "PASS", "no figure is published yet")


def test_policy(world: World) -> None:
    says("policy", inspect(world), "PASS", "allows all of the plans at hand")
    says("policy", no_plan(world), "PASS", "no plan is approved yet")
    world.allow("north", methods=[], fewest_sites=None)
    found = says("policy", inspect(world), "FAIL", f"plan {world.plan.digest[:8]}: methods, fewest_sites")
    assert [line.partition(":")[0] for line in found.details] == ["methods", "fewest_sites"]
    approved(SiteDir(world.sites["north"]), world.plan)
    says("policy", inspect(world, given=()), "FAIL", "policy.toml does not allow plan")


def test_the_policys_fewest_patients(world: World) -> None:
    world.allow("north", fewest_patients=25)  # 23 and 2 by the plan's figures
    says("policy", inspect(world), "PASS")
    for most in (26, None):
        world.allow("north", fewest_patients=most)
        found = says("policy", inspect(world), "FAIL", f"plan {world.plan.digest[:8]}: fewest_patients")
        assert found.details[0].startswith("fewest_patients: the plan says 25 (")


def test_units_that_are_no_patients_do_not_count_as_such(world: World) -> None:
    records = changed(world.plan, privacy=changed(world.plan.privacy, unit="record"))
    says("policy", inspect(world, records), "PASS")
    world.allow("north", fewest_patients=1)
    says("policy", inspect(world), "PASS")
    found = says("policy", inspect(world, records), "FAIL", f"plan {records.digest[:8]}: fewest_patients")
    assert "its unit is a record" in found.details[0]


def test_an_approval_that_the_policy_of_today_does_not_honour(world: World) -> None:
    for changes in ({"federations": {HUB: "ab" * 32}}, {"longest_approval_days": None}, {"coordinators": {}}):
        kept = (world.sites["north"] / "policy.toml").read_bytes()
        world.allow("north", **changes)
        says("policy", inspect(world), "FAIL", f"approval of plan {world.plan.digest[:8]} does not hold")
        (world.sites["north"] / "policy.toml").write_bytes(kept)
    says("policy", inspect(world), "PASS")


# --- keys -------------------------------------------------------------------------------------------------


def test_keys(world: World) -> None:
    says("keys", inspect(world), "PASS", "neither has an expiry")
    world.sites["north"].chmod(0o755)
    says("keys", inspect(world), "WARN", "SITE_DIR can be opened by others")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
@pytest.mark.parametrize("name", ["secret.key", "identity.key"])
def test_a_key_that_others_can_use(world: World, name: str, mode: int) -> None:
    (world.sites["north"] / name).chmod(mode)
    found = says("keys", inspect(world), "FAIL", f"{name} can be used by others")
    assert f"chmod 600 {name}" in found.remedy


@pytest.mark.parametrize("name", ["secret.key", "identity.key"])
@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 33])
def test_a_key_that_is_missing_or_damaged(world: World, name: str, content: bytes | None) -> None:
    path = world.sites["north"] / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    says("keys", inspect(world), "FAIL", "missing or damaged")


def test_keys_and_the_federation(world: World) -> None:
    north, east = world.sites["north"], world.sites["east"]
    (north / "identity.key").write_bytes((east / "identity.key").read_bytes())
    says("keys", inspect(world), "FAIL", "names another key for this site")
    (north / "federations" / HUB / "federation.json").write_bytes(b"{}")
    says("keys", inspect(world), "FAIL", "not the one that this site approved")


# --- books ------------------------------------------------------------------------------------------------


def test_ledger(world: World) -> None:
    path = world.sites["north"] / "ledger.sqlite"
    assert "its head: " in says("ledger", inspect(world), "PASS").details[0]
    kept = path.read_bytes()
    path.write_bytes((world.sites["east"] / "ledger.sqlite").read_bytes())
    says("ledger", inspect(world), "FAIL", "that of another site")
    path.write_bytes(kept)
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER no_update")
        database.execute("UPDATE entries SET body = replace(body, 'north', 'sorth')")
    says("ledger", inspect(world), "FAIL", "chain does not hold")
    path.unlink()
    says("ledger", inspect(world), "FAIL", "is missing")


def test_audit_log(world: World) -> None:
    north = world.sites["north"]
    says("audit log", inspect(world), "WARN", "no audit log yet")
    AuditLog(north).append("plan expired", digest="ab" * 32)
    assert "newest hash" in says("audit log", inspect(world), "PASS").details[0]
    path = north / "audit" / "audit-000001.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept[:-3])
    says("audit log", inspect(world), "WARN", "cut off")
    path.write_bytes(kept.replace(b"north", b"sorth"))
    says("audit log", inspect(world), "FAIL", "does not hold")
    path.unlink()
    says("audit log", inspect(world), "FAIL", "does not hold, or it cannot be read")
    shutil.rmtree(north / "audit")
    AuditLog(world.sites["east"]).append("plan expired", digest="ab" * 32)
    shutil.copytree(world.sites["east"] / "audit", north / "audit")
    says("audit log", inspect(world), "FAIL", "that of another site")
