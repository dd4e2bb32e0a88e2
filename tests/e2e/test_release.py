"""A release verifies as it is, and not with one byte of one file changed."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.support.runs import SITES, FinishedRun, call
from undertone.core.canonical import canonical_json, file_sha256, sha256_hex
from undertone.core.keys import create_key, load_key, public_hex
from undertone.errors import FolderError, NotVerified
from undertone.privacy.ledger import Ledger
from undertone.release.manifest import MANIFEST, SIGNATURE, write_manifest
from undertone.release.statement import TookPart, privacy_statement
from undertone.release.verify import verify
from undertone.study.plan import Plan

FILES = {
    "learned_embeds.safetensors",
    "plan.json",
    "plan.sig",
    "privacy.json",
    "ledger.sqlite",
    "samples.png",
    "README.md",
    MANIFEST,
    SIGNATURE,
}


@pytest.fixture
def copy(finished_run: FinishedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.release, tmp_path / "release"))


def sign_again(release: Path, key: Any) -> None:
    """What the coordinator, or somebody else, could do: make a manifest of whatever lies there."""
    for name in (MANIFEST, SIGNATURE):
        (release / name).unlink()
    write_manifest(release, key)


def key_of(run: FinishedRun) -> Any:
    return load_key(run.run / "coordinator.key")


def test_a_release_holds_what_it_should(finished_run: FinishedRun) -> None:
    assert {path.name for path in finished_run.release.iterdir()} == FILES
    assert not (finished_run.run / "release.part").exists()


def test_a_release_verifies(finished_run: FinishedRun) -> None:
    found = verify(finished_run.release, public_hex(key_of(finished_run)))
    assert (found.unit, found.attempts_charged, found.delta) == ("patient", 1, 1e-5)


def test_the_epsilon_is_the_same_in_plan_statement_and_verify(finished_run: FinishedRun) -> None:
    planned = json.loads(call("plan", finished_run.study, "--json").stdout)["privacy"]
    found = verify(finished_run.release)
    said = json.loads((finished_run.release / "privacy.json").read_text(encoding="utf-8"))["guarantee"]
    assert found.epsilon == planned["epsilon"] == said["epsilon"]
    assert found.epsilon_rdp == planned["epsilon_rdp"] == said["epsilon_rdp"]
    table, checked = call("plan", finished_run.study).stdout, call("verify", finished_run.release).stdout
    assert f"{found.epsilon:.6f}" in table
    assert f"{found.epsilon:.6f}" in checked


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_byte_anywhere_is_noticed_and_the_file_named(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    positions = {0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}
    for position in sorted(positions):
        for bit in (0, 5):  # bit 5 turns a letter into its capital: the same hexadecimal number
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            (copy / name).write_bytes(changed)
            with pytest.raises(NotVerified, match=name.replace(".", r"\.")):
                verify(copy)
    (copy / name).write_bytes(data)
    verify(copy)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(NotVerified, match=name.replace(".", r"\.")):
        verify(copy)


@pytest.mark.parametrize("name", ["added.txt", ".hidden", "privacy.json.bak"])
def test_an_added_file_or_folder_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text("x", encoding="utf-8")
    with pytest.raises(NotVerified, match=f"{name} .*added"):
        verify(copy)
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(NotVerified, match=f"{name} .*added"):
        verify(copy)


def test_a_folder_in_a_files_place_is_named(copy: Path) -> None:
    (copy / "samples.png").unlink()
    (copy / "samples.png").mkdir()
    with pytest.raises(NotVerified, match=r"samples\.png"):
        verify(copy)


def test_verifying_changes_nothing(finished_run: FinishedRun) -> None:
    before = {path.name: (file_sha256(path), path.stat().st_mtime_ns) for path in finished_run.release.iterdir()}
    verify(finished_run.release)
    after = {path.name: (file_sha256(path), path.stat().st_mtime_ns) for path in finished_run.release.iterdir()}
    assert after == before


def test_a_folder_that_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(NotVerified):
        verify(tmp_path)
    with pytest.raises(FolderError, match="RUN/release"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize("data", [b"[" * 10_000, b"[]", b"\xff", b"{}"])
def test_a_manifest_that_is_none_is_refused(copy: Path, data: bytes) -> None:
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(NotVerified, match="damaged"):
        verify(copy)


# --- forgeries that are signed --------------------------------------------------------------------


def change_statement(release: Path, change: Callable[[Any], None]) -> None:
    path = release / "privacy.json"
    statement = json.loads(path.read_text(encoding="utf-8"))
    change(statement)
    path.write_bytes(canonical_json(statement))


def test_another_key_signs_a_release_that_only_the_key_betrays(
    copy: Path, finished_run: FinishedRun, tmp_path: Path
) -> None:
    """A thief can re-sign everything but the plan; the coordinator's key shows it."""
    other = create_key(tmp_path / "other.key")
    sign_again(copy, other)
    with pytest.raises(NotVerified, match="signed by"):
        verify(copy, public_hex(key_of(finished_run)))
    with pytest.raises(NotVerified, match=r"plan\.json or plan\.sig"):
        verify(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["guarantee"].update(epsilon=0.1), "guarantee"),
        (lambda s: s["guarantee"].update(delta=1e-9), "guarantee"),
        (lambda s: s["mechanism"].update(sigma=10**9), "mechanism"),
        (lambda s: s["evidence"].update(ledger_head="0" * 64), "evidence"),
        (lambda s: s["mechanism"].update(attempts_charged=0), "mechanism"),
        (lambda s: s["trust"].pop(), "trust"),
        (lambda s: s.pop("utility"), "utility"),
        (lambda s: s.update(extra=1), "extra"),
        (lambda s: s["cohort"].update(sites_in_every_sum=7), "cohort"),
        (lambda s: s["cohort"].update(sites_missing=["north"]), "cohort"),
        (lambda s: s["cohort"].update(fewest_sites_in_a_sum=len(SITES) - 1), "cohort"),
        (lambda s: s["cohort"].update(fewest_sites_in_a_sum=len(SITES) + 1), "cohort"),
        (lambda s: s["cohort"].update(fewest_sites_in_a_sum=True), "cohort"),
        (lambda s: s["cohort"].pop("fewest_sites_in_a_sum"), "cohort"),
        (lambda s: s["cohort"].update(sites_in_every_sum=["stranger"]), "cohort"),
        (lambda s: s["cohort"].update(sites_in_every_sum=[]), "cohort"),
        (lambda s: s["cohort"].update(sums_of_missing_sites={"north": 1}), "cohort"),
        (lambda s: s["cohort"].update(sums_of_missing_sites=[]), "cohort"),
        (lambda s: s["cohort"].update(sums_of_missing_sites={}), "cohort"),
        (lambda s: s.update(cohort=None), "privacy"),
    ],
)
def test_a_statement_that_says_something_else_is_refused_though_signed(
    copy: Path, finished_run: FinishedRun, change: Callable[[Any], None], named: str
) -> None:
    change_statement(copy, change)
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match=rf"privacy\.json.*{named}|privacy\.json cannot"):
        verify(copy)


def test_a_sum_of_too_few_sites_is_refused_though_signed(copy: Path, finished_run: FinishedRun) -> None:
    def one_site_alone(statement: Any) -> None:
        first, *others = sorted(SITES)
        statement["cohort"].update(
            sites_in_every_sum=[first], fewest_sites_in_a_sum=1, sites_missing=dict.fromkeys(others, "did not answer")
        )

    change_statement(copy, one_site_alone)
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match="a sum of 1 sites was used; the plan needs"):
        verify(copy)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"7", b"[" * 100_000])
def test_a_statement_that_is_none_is_refused(copy: Path, finished_run: FinishedRun, data: bytes) -> None:
    (copy / "privacy.json").write_bytes(data)
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match=r"privacy\.json"):
        verify(copy)


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.5}, {"epsilon_rdp": 0.5}, {"sigma": 10**8}, {"max_attempts": 3}, {"delta": 1e-3}],
)
def test_a_plan_with_a_false_claim_is_refused_though_signed(
    copy: Path, finished_run: FinishedRun, change: dict[str, Any]
) -> None:
    from undertone.core.keys import PLAN_DOMAIN, sign

    plan = Plan.from_bytes((copy / "plan.json").read_bytes())
    false = plan.model_copy(update={"privacy": plan.privacy.model_copy(update=change)})
    (copy / "plan.json").write_bytes(false.as_bytes())
    (copy / "plan.sig").write_text(sign(key_of(finished_run), PLAN_DOMAIN, false.digest), encoding="ascii")
    ledger(copy, false, [(1, 1)])
    with Ledger.open(copy / "ledger.sqlite", read_only=True) as made:
        head = made.head
    everyone = TookPart(sorted(SITES), {}, len(SITES))
    said = privacy_statement(false, setting="simulation", ledger_head=head, charges=1, took_part=everyone)
    (copy / "privacy.json").write_bytes(canonical_json(said))  # the whole release tells one story, a false one
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match=r"plan\.json claims"):
        verify(copy)


def ledger(release: Path, plan: Plan, charges: list[tuple[int, int]], digest: str | None = None, **event: Any) -> None:
    """A fresh, well-formed ledger with these charges."""
    from dataclasses import replace

    path = release / "ledger.sqlite"
    path.unlink()
    with Ledger.create(path, {"role": "coordinator", "plan": plan.digest}) as made:
        for round_, attempt in charges:
            made.charge(digest or plan.digest, round_, attempt, replace(plan.stage_of(1).event, **event), "0" * 64, 99)


@pytest.mark.parametrize(
    ("charges", "options"),
    [
        ([], {}),
        ([(1, 1), (1, 2)], {}),
        ([(2, 1)], {}),
        ([(1, 1)], {"sigma": 10**9}),
        ([(1, 1)], {"digest": "f" * 64}),
    ],
    ids=["no charge", "too many", "another round", "another mechanism", "another study"],
)
def test_a_ledger_that_tells_another_story_is_refused_though_signed(
    copy: Path, finished_run: FinishedRun, charges: list[tuple[int, int]], options: dict[str, Any]
) -> None:
    plan = Plan.from_bytes((copy / "plan.json").read_bytes())
    ledger(copy, plan, charges, **options)
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match=r"ledger\.sqlite"):
        verify(copy)


def test_a_ledger_changed_from_within_is_refused_though_signed(copy: Path, finished_run: FinishedRun) -> None:
    with sqlite3.connect(copy / "ledger.sqlite") as database:
        database.execute("DROP TRIGGER no_update")
        database.execute("UPDATE entries SET body = replace(body, '\"attempt\":1', '\"attempt\":9')")
    sign_again(copy, key_of(finished_run))
    with pytest.raises(NotVerified, match=r"ledger\.sqlite"):
        verify(copy)


# --- what a release reveals -----------------------------------------------------------------------


def test_nothing_in_a_release_names_a_unit_a_file_or_the_private_sum(finished_run: FinishedRun) -> None:
    total = finished_run.private_sum
    words = {word for row in finished_run.rows for word in (row["patient_id"], row["file_name"].split("/")[-1])}
    needles = [word.encode() for word in words] + [b"patient-", b"scan-", str(finished_run.data).encode()]
    needles += [total.astype(kind).tobytes() for kind in ("<i8", "<i4", "<f4", "<f8")]
    needles += [sha256_hex(total.astype("<i8").tobytes()).encode(), sha256_hex(total.tobytes()).encode()]
    for path in finished_run.release.iterdir():
        data = path.read_bytes()
        assert not [needle for needle in needles if needle in data], path.name


def test_the_released_weights_are_the_noised_mean_alone(finished_run: FinishedRun) -> None:
    from undertone.methods.registry import method_for
    from undertone.models.pinned import pin

    plan = Plan.from_bytes((finished_run.release / "plan.json").read_bytes())
    noised = np.load(finished_run.run / "checkpoints" / "round-000001" / "noised-001.npy")
    method = method_for(plan.method.name, plan.method.options)
    start = method.initial_state(pin(plan.model.base))
    expected = start + noised / (plan.grid.scale * sum(plan.cohort.units.values()))
    (released,) = load_file(finished_run.release / "learned_embeds.safetensors").values()
    np.testing.assert_allclose(released, expected, rtol=1e-6)
    noise = noised - finished_run.private_sum
    assert 0.3 < np.sqrt(np.mean(noise.astype(float) ** 2)) / plan.privacy.sigma < 2


def test_the_statement_makes_the_points_of_the_contract(finished_run: FinishedRun) -> None:
    statement = json.loads((finished_run.release / "privacy.json").read_text(encoding="utf-8"))
    assert statement["setting"] == "simulation"
    assert statement["guarantee"]["unit"] == "patient"
    assert "two sites is two units" in statement["guarantee"]["unit_means"]
    assert statement["cohort"]["sites_in_every_sum"] == sorted(SITES)
    assert statement["cohort"]["sites_missing"] == {}
    trust = " ".join(statement["trust"])
    for point in ("trusted with the sum before noise", "trusted to clip", "tuned on the private images", "protected"):
        assert point in trust
    card = (finished_run.release / "README.md").read_text(encoding="utf-8")
    for point in statement["trust"]:
        assert point in card


def test_stock_diffusers_loads_the_release(finished_run: FinishedRun, tiny_base: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_textual_inversion(finished_run.release / "learned_embeds.safetensors")
    number = pipeline.tokenizer.convert_tokens_to_ids("<private>")
    (released,) = load_file(finished_run.release / "learned_embeds.safetensors").values()
    weight = pipeline.text_encoder.get_input_embeddings().weight[number]
    np.testing.assert_array_equal(weight.detach().float().numpy(), released)


def test_weights_say_of_which_base_they_are_in_a_release_and_in_a_pipeline(
    finished_run: FinishedRun, tiny_base: Path, tmp_path: Path
) -> None:
    done = call("export", finished_run.release, "--out", tmp_path / "pipeline")
    assert done.exit_code == 0, done.output
    exported = sorted((tmp_path / "pipeline").rglob("*.safetensors"))
    assert len(exported) == 3
    for file in (finished_run.release / "learned_embeds.safetensors", *exported):
        with safe_open(file, framework="np") as tensors:
            assert tensors.metadata() == {"format": "pt", "base_model": str(tiny_base)}, file
    for name in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        there, here = load_file(tmp_path / "pipeline" / name), load_file(tiny_base / name)
        assert there.keys() == here.keys()
        assert all(np.array_equal(there[key], here[key]) for key in here)


def test_site_folders_hold_no_rows_after_their_answer(finished_run: FinishedRun) -> None:
    for site in SITES:
        database = sqlite3.connect(finished_run.run / "sites" / site / "state.sqlite")
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (0,)
        database.close()


def test_secrets_of_a_run_are_readable_by_their_owner_alone(finished_run: FinishedRun) -> None:
    secrets = [finished_run.run / "coordinator.key", *finished_run.run.glob("sites/*/secret.key")]
    assert len(secrets) == 4
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
