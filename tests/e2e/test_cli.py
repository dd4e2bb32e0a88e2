"""The command line: bad input is one line and exit 2 with nothing written, a refusal is exit 3."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tests.support.images import pixels, write_csv, write_folder
from tests.support.runs import SITES, FinishedRun, call, coordinator_of, tiny_study
from undertone_cli.commands.simulate import round_units
from undertone_cli.main import COMMANDS

PROGRESS = re.compile(r"^[\w -]+(: [\w -]+)? \(\d+\)$")


@pytest.fixture
def study(tmp_path: Path, tiny_base: Path) -> Path:
    return tiny_study(tmp_path / "study.toml", tiny_base)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    return tmp_path / "data"


def simulate(study: Path, data: Path, *more: object, by: str = "site") -> Result:
    options = ("--split-by", by) if by else ()
    return call("simulate", study, "--data", data, *options, "--out", study.parent / "RUN", *more)


def assert_one_line(result: Result, code: int, *words: str) -> None:
    """Exit code `code`, one line beside progress on stderr, and it holds all `words`."""
    lines = [line for line in result.stderr.splitlines() if line.strip() and not PROGRESS.match(line)]
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]


def assert_nothing_written(folder: Path) -> None:
    assert not (folder / "RUN").exists()
    assert not (folder / "RUN.part").exists()


# --- bad studies and data -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy__epsilon": 0}, ["StudyError", "privacy.epsilon", "greater than 0"]),
        ({"privacy__epsilon": 1000}, ["privacy.epsilon"]),
        ({"privacy__delta": 2}, ["privacy.delta"]),
        ({"privacy__epsilom": 1}, ["privacy.epsilom", "did you mean epsilon?"]),
        ({"method__step": 1}, ["step", "did you mean steps?"]),
        ({"method__name": "dpag"}, ["dpag", "dpagg-ti"]),
        ({"data__unit_column": "patient"}, ["data.unit_column", '"patient"', '"patient_id"']),
        ({"data__unit_column": None}, ["data.unit_column"]),
        ({"data__caption": "a {token}, {fnding}"}, ["data.caption", '"fnding"', '"finding"']),
        ({"data__caption": "a picture"}, ["data.caption", "{token}"]),
        ({"data__caption": "a {token"}, ["data.caption", "not a template"]),
        ({"model__base": "nowhere at all"}, ["ModelError", "nowhere at all"]),
        ({"model__base": "embedded:big"}, ["embedded:big", "embedded:tiny"]),
        ({"privacy__max_attempts": 0}, ["privacy.max_attempts"]),
        ({"privacy__rounds": 3, "privacy__max_attempts": 2}, ["max_attempts = 2", "rounds = 3"]),
        ({"cohort__units": {"north": 6, "west": 6}}, ["cohort.units", "west", "south"]),
        ({"cohort__min_sites": 5}, ["cohort.min_sites = 5"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_bad_study(tmp_path: Path, tiny_base: Path, data: Path, changes: dict[str, Any], words: list[str]) -> None:
    study = tiny_study(tmp_path / "study.toml", tiny_base, **changes)
    assert_one_line(simulate(study, data), 2, *words)
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_base_without_a_part(tmp_path: Path, tiny_base: Path, data: Path, part: str) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    shutil.rmtree(base / part)
    assert_one_line(simulate(tiny_study(tmp_path / "study.toml", base), data), 2, "ModelError", f"has no {part}")
    assert_nothing_written(tmp_path)


def spoil_rows(data: Path, change: Callable[[list[dict[str, str]]], Any]) -> None:
    with (data / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    write_csv(data / "metadata.csv", rows)


SPOILED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "empty folder": (lambda data: [shutil.rmtree(data), data.mkdir()], ["no images"]),
    "no folder": (shutil.rmtree, ["is not a folder"]),
    "unreadable image": (
        lambda data: (data / "images/scan-0007.png").write_text("x"),
        ["scan-0007.png", "as an image"],
    ),
    "truncated image": (
        lambda data: (data / "images/scan-0007.png").write_bytes((data / "images/scan-0007.png").read_bytes()[:70]),
        ["scan-0007.png", "as an image"],
    ),
    "missing image": (lambda data: (data / "images/scan-0007.png").unlink(), ["scan-0007.png", "line 9"]),
    "no unit id": (lambda data: spoil_rows(data, lambda rows: rows[4].update(patient_id="")), ["line 6", "patient_id"]),
    "duplicate": (
        lambda data: spoil_rows(data, lambda rows: rows.append(rows[3])),
        ["scan-0003.png", "line 5 already"],
    ),
    "outside": (
        lambda data: spoil_rows(data, lambda rows: rows[0].update(file_name="../x.png")),
        ["../x.png", "line 2"],
    ),
    "no site": (
        lambda data: spoil_rows(data, lambda rows: rows[0].update(site="")),
        ["scan-0000.png", "names no site"],
    ),
    "a word for nobody": (
        lambda data: spoil_rows(data, lambda rows: rows[0].update(patient_id="NaN")),
        ["line 2", "NaN", "names nobody"],
    ),
    "ids that look alike": (
        lambda data: spoil_rows(data, lambda rows: rows[0].update(patient_id="Patient-0")),
        ["Patient-0", "patient-0", "--ids-as-written"],
    ),
    "bad site": (
        lambda data: spoil_rows(data, lambda rows: [row.update(site="élan" + row["site"]) for row in rows]),
        ["élan", "small letters"],
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_bad_data(tmp_path: Path, tiny_base: Path, data: Path, fault: str) -> None:
    units = {} if fault == "bad site" else {"cohort__units": dict.fromkeys(SITES, 6)}
    study = tiny_study(tmp_path / "study.toml", tiny_base, **units)
    if not units:
        study = tiny_study(tmp_path / "study.toml", tiny_base, cohort__units=None)
    spoil, words = SPOILED[fault]
    spoil(data)
    assert_one_line(simulate(study, data), 2, "DataError", *words)
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split-by", "hospital"], ["hospital", "patient_id, finding, site"]),
        ([], ["--split-by COLUMN or --sites N"]),
        (["--split-by", "site", "--sites", "3"], ["exclude each other"]),
        (["--sites", "30"], ["no units left"]),
        (["--split-by", "site", "--holdout", "1.0"], ["--holdout 1.0"]),
        (["--split-by", "site", "--holdout", "0.999999"], ["--holdout"]),
        (["--split-by", "site", "--holdout", "-0.1"], ["--holdout -0.1"]),
        (["--split-by", "site", "--device", "cuda:99"], ["ModelError", "cuda:99", "cpu"]),
        (["--split-by", "site", "--device", "cpu", "--device", "cpu"], ["each once"]),
        (["--split-by", "site", "--device", "cpu", "--resume"], ["--device is for a new RUN"]),
    ],
)
def test_a_bad_split(study: Path, data: Path, options: list[str], words: list[str]) -> None:
    result = call("simulate", study, "--data", data, "--out", study.parent / "RUN", *options)
    assert_one_line(result, 2, *words)
    assert_nothing_written(study.parent)


def test_a_run_folder_that_exists_is_left_alone(study: Path, data: Path, tmp_path: Path) -> None:
    for make in (lambda path: path.mkdir(), lambda path: path.write_text("mine", encoding="utf-8")):
        make(tmp_path / "RUN")
        assert_one_line(simulate(study, data), 2, "FolderError", "RUN exists already")
        if (tmp_path / "RUN").is_dir():
            assert not list((tmp_path / "RUN").iterdir())
            (tmp_path / "RUN").rmdir()
    assert (tmp_path / "RUN").read_text(encoding="utf-8") == "mine"


def test_an_output_that_cannot_be_a_folder(finished_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    out = tmp_path / "file" / "RUN"
    result = call("simulate", finished_run.study, "--data", finished_run.data, "--split-by", "site", "--out", out)
    assert_one_line(result, 2, "FolderError", "file")
    result = call("generate", finished_run.release, "--prompt", "a", "-n", 1, "--steps", 1, "--out", out)
    assert_one_line(result, 2, "FolderError", "file")


def test_a_study_of_noise_is_refused(tmp_path: Path, tiny_base: Path, data: Path) -> None:
    study = tiny_study(tmp_path / "study.toml", tiny_base, privacy__allow_noisy=False, privacy__epsilon=0.1)
    assert_one_line(simulate(study, data), 3, "NoisyRelease", "units would bring it under 1")
    assert_nothing_written(tmp_path)
    assert_one_line(call("plan", study), 3, "NoisyRelease")


@pytest.mark.parametrize("name", ["missing.toml", "."])
@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_a_study_file_that_is_not_there(tmp_path: Path, command: str, name: str) -> None:
    more = ["--data", tmp_path, "--out", tmp_path / "RUN"] if command == "simulate" else []
    assert_one_line(call(command, tmp_path / name, *more), 2, "StudyError", "cannot be read")


def test_planning_needs_the_sites_numbers(tmp_path: Path, tiny_base: Path) -> None:
    study = tiny_study(tmp_path / "study.toml", tiny_base, cohort__units=None)
    assert_one_line(call("plan", study), 2, "cohort.units is missing")


def test_planning_writes_nothing(study: Path, tmp_path: Path) -> None:
    result = call("plan", study)
    assert result.exit_code == 0
    assert list(tmp_path.iterdir()) == [study]
    for name in ("digest", "epsilon (PLD", "epsilon (RDP", "sigma", "Delta", "scale s", "clamp B", "noise-to-signal"):
        assert name in result.stdout
    assert "would bring it to 1" in result.stdout


# --- resuming -------------------------------------------------------------------------------------


def test_resuming_what_is_no_run(study: Path, data: Path, tmp_path: Path) -> None:
    assert_one_line(simulate(study, data, "--resume"), 2, "FolderError", "RUN")
    (tmp_path / "RUN").mkdir()
    assert_one_line(simulate(study, data, "--resume"), 2, "FolderError", "RUN")


def test_resuming_with_another_study_is_refused(finished_run: FinishedRun, tmp_path: Path, tiny_base: Path) -> None:
    other = tiny_study(tmp_path / "study.toml", tiny_base, privacy__epsilon=5)
    result = call("simulate", other, "--data", finished_run.data, "--out", finished_run.run, "--resume")
    assert_one_line(result, 3, "PlanChanged", "study.toml")


def test_resuming_a_finished_run_changes_nothing(finished_run: FinishedRun) -> None:
    before = {path: path.read_bytes() for path in finished_run.run.rglob("*") if path.is_file()}
    result = call("simulate", finished_run.study, "--data", finished_run.data, "--out", finished_run.run, "--resume")
    assert result.exit_code == 0
    assert {path: path.read_bytes() for path in finished_run.run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["plan.json", "plan.sig"])
def test_resuming_with_a_changed_plan_is_refused(finished_run: FinishedRun, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(finished_run.run, tmp_path / "RUN"))
    shutil.rmtree(run / "release")
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    result = call("simulate", finished_run.study, "--out", run, "--resume")
    assert_one_line(result, 3)
    assert not (run / "release").exists()


# --- verify and generate --------------------------------------------------------------------------


def test_verify_says_which_file(finished_run: FinishedRun, tmp_path: Path) -> None:
    release = Path(shutil.copytree(finished_run.release, tmp_path / "release"))
    for name in ("ledger.sqlite", "learned_embeds.safetensors", "privacy.json"):
        data = bytearray((release / name).read_bytes())
        data[-1] ^= 1
        (release / name).write_bytes(data)
        assert_one_line(call("verify", release), 3, "NotVerified", name)
        shutil.copy(finished_run.release / name, release / name)
    assert call("verify", release).exit_code == 4
    assert call("verify", release, *coordinator_of(finished_run.run)).exit_code == 0
    assert_one_line(call("verify", release, "--coordinator", "0" * 64), 3, "NotVerified", "signed by")
    assert_one_line(call("verify", tmp_path), 3, "NotVerified")


def test_generated_images_say_that_they_are_synthetic(finished_run: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "images"
    options = ["--prompt", "a <private>", "-n", 3, "--steps", 2, "--seed", 7]
    made = call("generate", finished_run.release, *options, "--out", out)
    assert made.exit_code == 0
    assert "signer of the release was not checked" in made.stdout
    assert {path.name for path in out.iterdir()} == {"00000.png", "00001.png", "00002.png", "metadata.csv", "grid.png"}
    for path in sorted(out.glob("0*.png")):
        image = Image.open(path)
        assert image.size == (32, 32)
        assert image.text["Synthetic"].startswith("yes")
        assert image.text["Description"] == "a <private>"
    with (out / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["seed"], row["synthetic"]) for row in rows] == [("7", "yes"), ("8", "yes"), ("9", "yes")]
    again = tmp_path / "again"
    known = call("generate", finished_run.release, *options, "--out", again, *coordinator_of(finished_run.run))
    assert "not checked" not in known.stdout
    np.testing.assert_array_equal(
        np.asarray(Image.open(again / "00001.png")), np.asarray(Image.open(out / "00001.png"))
    )


def test_generate_refuses_what_it_must(finished_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    options = ["--prompt", "a <private>", "-n", 1, "--steps", 1]
    assert_one_line(call("generate", finished_run.release, *options, "--out", tmp_path / "there"), 2, "exists already")
    assert_one_line(call("generate", tmp_path, *options, "--out", tmp_path / "new"), 2, "plan.json")
    none = ["--prompt", "a", "-n", 0, "--out", tmp_path / "new"]
    assert_one_line(call("generate", finished_run.release, *none), 2, "-n must be")
    away = ["--prompt", "a", "-n", 1, "--device", "cuda:99", "--out", tmp_path / "new"]
    assert_one_line(call("generate", finished_run.release, *away), 2, "ModelError", "cuda:99", "cpu")
    assert not (tmp_path / "new").exists()


def test_generate_refuses_a_base_that_changed(tmp_path: Path, finished_run: FinishedRun) -> None:
    release = Path(shutil.copytree(finished_run.release, tmp_path / "release"))
    plan = json.loads((release / "plan.json").read_bytes())
    base = Path(shutil.copytree(plan["model"]["base"], tmp_path / "base"))
    options = ["--prompt", "a <private>", "-n", 1, "--steps", 1, "--base", base]
    assert call("generate", release, *options, "--out", tmp_path / "good").exit_code == 0
    config = base / "unet" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    result = call("generate", release, *options, "--out", tmp_path / "bad")
    assert_one_line(result, 3, "PlanChanged", "unet/config.json")
    assert not (tmp_path / "bad").exists()


# --- splits, help ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "export"])
def test_a_base_that_lies_elsewhere_is_named_and_checked(
    finished_run: FinishedRun, tmp_path: Path, command: str
) -> None:
    plan = json.loads((finished_run.release / "plan.json").read_bytes())
    copied = Path(shutil.copytree(plan["model"]["base"], tmp_path / "copied"))
    options = ["--prompt", "a <private>", "-n", 1, "--steps", 1] if command == "generate" else []
    arguments = [command, finished_run.release, *options, "--base", copied]
    assert call(*arguments, "--out", tmp_path / "good").exit_code == 0
    with (copied / "scheduler" / "scheduler_config.json").open("a", encoding="utf-8") as stream:
        stream.write(" ")
    assert_one_line(call(*arguments, "--out", tmp_path / "bad"), 3, "PlanChanged", "scheduler_config.json")


def test_a_resumed_run_needs_no_data_again(finished_run: FinishedRun, tmp_path: Path) -> None:
    result = call("simulate", finished_run.study, "--out", finished_run.run, "--resume")
    assert result.exit_code == 0
    told = call("simulate", finished_run.study, "--data", tmp_path, "--out", finished_run.run, "--resume")
    assert told.exit_code == 0
    assert "are those of" in told.stderr
    assert_one_line(call("simulate", finished_run.study, "--out", tmp_path / "new"), 2, "InputError", "--data")


def test_a_folder_of_folders_has_a_site_in_each_and_holdouts_split_by_unit(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undertone_cli import diagnostics

    for name, value in {"IMAGES": 8, "STEPS": 2, "RANDOM_DIRECTIONS": 1, "_PUBLIC_IMAGES": 8, "ATTACKED": 8}.items():
        monkeypatch.setattr(diagnostics, name, value)
    for number, site in enumerate(SITES):
        write_folder(tmp_path / "data" / site, 40, 32, first=100 * number)
    study = tiny_study(tmp_path / "study.toml", tiny_base, cohort__units=None)
    result = simulate(study, tmp_path / "data", "--holdout", "0.3", by="")
    assert result.exit_code == 0, result.output
    run = tmp_path / "RUN"
    found = json.loads((run / "diagnostics.json").read_text(encoding="utf-8"))
    assert found["label"].startswith("simulation only")
    names = ["training images (floor)", "before", "after", "non-private mean", "random direction 1"]
    assert list(found["distance"]) == list(found["by the base's own autoencoder"]) == names
    assert found["distance"] != found["by the base's own autoencoder"]
    assert list(found["measures"]) == names
    assert all(one["kid"] == found["distance"][name] for name, one in found["measures"].items())
    assert "never proof of privacy" in found["membership"]["meaning"]
    assert (found["membership"]["members"], found["membership"]["others"]) == (8, 8)
    assert not [path for path in (run / "release").iterdir() if "diagnostics" in path.name]
    for site in SITES:
        halves = []
        for half in ("sites", "holdout"):
            with (run / half / site / "metadata.csv").open(newline="", encoding="utf-8") as stream:
                halves.append({row["patient_id"] for row in csv.DictReader(stream)})
        assert not halves[0] & halves[1]
        assert len(halves[0] | halves[1]) == 20
    statement = json.loads((run / "release" / "privacy.json").read_text(encoding="utf-8"))
    assert statement["cohort"]["units_origin"] == "filled in by simulate"
    assert call("verify", run / "release", *coordinator_of(run)).exit_code == 0
    assert f"undertone verify {run / 'release'} {' '.join(coordinator_of(run))}" in result.stdout


@pytest.mark.parametrize(
    ("count", "figure"), [(1, 1), (9, 9), (10, 10), (99, 100), (101, 110), (287, 290), (12345, 13000)]
)
def test_public_figures_are_round(count: int, figure: int) -> None:
    assert round_units(count) == figure


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_says_what_a_command_does(command: str | None) -> None:
    result = call(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    for name in COMMANDS if command is None else [command]:
        assert name in result.stdout


def test_an_unknown_command_is_exit_2() -> None:
    assert call("simulat").exit_code == 2


def test_a_picture_of_another_size_is_fitted(tmp_path: Path, tiny_base: Path, data: Path) -> None:
    Image.fromarray(pixels(1, 64)[:, :40]).convert("L").save(data / "images" / "scan-0000.png")
    study = tiny_study(tmp_path / "study.toml", tiny_base)
    assert simulate(study, data).exit_code == 0
