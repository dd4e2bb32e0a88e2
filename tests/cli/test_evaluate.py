"""`undertone evaluate`: a small release held against real images, and what is refused before anything is drawn."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.images import write_folder
from tests.support.runs import SITES, FinishedRun, call, coordinator_of, tiny_study
from undertone.evaluation.membership import MEANING
from undertone_cli.commands import evaluate as module
from undertone_cli.evaluating.evaluation import LABEL

QUICK = ("-n", 8, "--steps", 1, "--random-directions", 1)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Other people's images: 24 of 12 patients, two findings."""
    write_folder(tmp_path / "real", 24, 32, first=500)
    return tmp_path / "real"


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal comes before the work."""
    from undertone_cli.evaluating import evaluation

    def drawn(*_: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr(evaluation, "draw_variant", drawn)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(code: int, *words: str, arguments: tuple[object, ...]) -> None:
    found = call("evaluate", *arguments)
    assert found.exit_code == code, found.output
    for word in words:
        assert word in found.stderr, found.stderr


def test_a_release_against_real_images_with_classes_and_members(
    finished_run: FinishedRun, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone_cli.evaluating.classifiers.SHUFFLES", 2)
    monkeypatch.setattr("undertone.evaluation.classifier.STRENGTHS", (0.01, 1.0))
    before = {name: contents(folder) for name, folder in (("release", finished_run.release), ("real", real))}
    wanted = ("--json", tmp_path / "found.json", "--grid", tmp_path / "found.png")
    monkeypatch.setattr("undertone.evaluation.small_cnn.EPOCHS", 2)
    more = ("--cnn", "-n", 10, *wanted, *coordinator_of(finished_run.run))
    sides = ("--real", real, "--members", finished_run.data, "--class-column", "finding")
    found = call("evaluate", finished_run.release, *sides, *QUICK, *more)
    assert found.exit_code == 0, (found.output, found.exception)
    assert before == {name: contents(folder) for name, folder in (("release", finished_run.release), ("real", real))}

    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"), parse_constant=lambda name: 1 / 0)
    assert report["label"] == LABEL
    assert report["release"]["signer_checked"] is True
    assert report["real"]["units"] == 12
    assert report["real"]["unit_column"] == "patient_id"
    assert report["real"]["classes"] == {"clear": 12, "mass": 12}
    assert report["drawn"]["prompts"] == {"clear": "a <private>, clear", "mass": "a <private>, mass"}
    names = ["before", "after", "random direction 1"]
    (distances,) = report["distances"].values()
    assert list(distances) == ["real images", *names]
    assert {one["images"] for one in distances.values()} == {distances["after"]["images"]}  # as many of each
    assert all(None not in one.values() for one in distances.values())
    assert set(report["classifiers"]) >= set(names)
    assert sum(map(sum, report["classifiers"]["after"]["confusion"])) == 24
    assert len(report["shuffled"]["runs"]) == 2
    assert list(report["small_cnn"]) == ["before", "after"]
    assert "no small CNN trained on real images" in found.stderr  # of six in a half
    membership = report["membership"]
    assert membership["meaning"] == MEANING
    assert {*membership["attacks"]["loss"]} == {"before", "after", "held-out halves"}
    assert len(membership["attacks"]) == 3

    said = " ".join(found.stdout.split())
    for words in (
        MEANING,
        LABEL,
        "features of the public encoder",
        "classes shuffled",
        "after, small CNN",
        "membership inference",
    ):
        assert words in said
    assert "the signer of the release was not checked" not in said
    with Image.open(tmp_path / "found.png") as grid:
        assert grid.height > 6 * 128  # three variants, two classes


def test_without_classes_metadata_and_files(finished_run: FinishedRun, tmp_path: Path) -> None:
    write_folder(tmp_path / "real", 14, 32, first=300)
    (tmp_path / "real" / "metadata.csv").unlink()
    plan, prompt = "a <private> in grey", ("--prompt", "a <private> in grey")
    found = call("evaluate", finished_run.release, "--real", tmp_path / "real", *QUICK, *prompt)
    assert found.exit_code == 0, found.output
    assert "intervals are by image" in found.stderr
    assert "classifiers" not in found.stdout
    assert "membership" not in found.stdout
    assert "the signer of the release was not checked" in found.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real"]
    assert plan not in found.stderr


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("option", ["--json", "--grid"])
def test_nothing_is_written_into_a_release_or_among_real_images(
    finished_run: FinishedRun, real: Path, tmp_path: Path, option: str
) -> None:
    release, arguments = finished_run.release, (finished_run.release, "--real", real)
    (tmp_path / "link").symlink_to(release)
    (tmp_path / "inner").symlink_to(real / "images")
    (tmp_path / "file.png").write_text("")
    (tmp_path / "dangling.png").symlink_to(release / "new.png")
    before = contents(release)
    within = [release / "new.png", tmp_path / "link" / "new.png", real / "new.png", real / "images" / "new.png"]
    within += [release / ".." / release.name / "new.png", tmp_path / "inner" / "new.png"]
    for path in within:
        refused(2, "FolderError", "is within", arguments=(*arguments, option, path))
    linked = (tmp_path / "link", "--real", real, option, release / "new.png")
    refused(2, "FolderError", "is within", arguments=linked)
    members = ("--members", finished_run.data, option, finished_run.data / "new.png")
    refused(2, "FolderError", "is within", arguments=(*arguments, *members))
    for name in ("MANIFEST.json", "privacy.json"):  # another release, and an export of one
        other = tmp_path / name.split(".")[0]
        (other / "deep").mkdir(parents=True)
        (other / name).write_text("{}")
        refused(2, "FolderError", f"which holds {name}", arguments=(*arguments, option, other / "deep" / "new.png"))
    for path in (tmp_path / "file.png", tmp_path / "dangling.png"):
        refused(2, "FolderError", "exists already", arguments=(*arguments, option, path))
    refused(2, "FolderError", "is not a folder", arguments=(*arguments, option, tmp_path / "none" / "new.png"))
    assert contents(release) == before
    assert not (real / "new.png").exists()


@pytest.mark.usefixtures("nothing_drawn")
def test_the_manifest_is_checked_first(finished_run: FinishedRun, real: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(finished_run.release, tmp_path / "changed"))
    with (changed / "learned_embeds.safetensors").open("ab") as stream:
        stream.write(b" ")
    refused(3, "NotVerified", "learned_embeds", arguments=(changed, "--real", tmp_path / "no such folder"))
    key = ("--coordinator", "0" * 64)
    refused(3, "NotVerified", arguments=(finished_run.release, "--real", real, *key))
    refused(2, "FolderError", "no plan.json", arguments=(tmp_path, "--real", real))


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--class-column", "fnding"), ["DataError", '"fnding"', '"finding"']),
        (("--class-column", "site"), ["DataError", '"site"']),
        (("--class-column", "patient_id", "--prompt", "a"), ["InputError", "CLASS=PROMPT"]),
        (("--class-column", "finding", "--prompt", "mass=<private>", "--prompt", "mass=x"), ["each class once"]),
        (("--class-column", "finding", "--prompt", "cyst=<private>", "--prompt", "mass=<private>"), ['"cyst"']),
        (("--class-column", "finding", "--prompt", "clear=<private>", "--prompt", "mass=x"), ['"mass"', "lacks"]),
        (("--prompt", "a <private>", "--prompt", "b <private>"), ["CLASS=PROMPT"]),
        (("--prompt", "mass=<private>", "--prompt", "clear=<private>"), ["need --class-column"]),
        (("--class-column", "finding", "--prompt", "a <private>"), ["CLASS=PROMPT", "--class-column"]),
        (("--prompt", "a picture"), ["lacks <private>"]),
        (("--unit-column", "patient"), ["DataError", '"patient_id"']),
        (("--inception", "no-such-file.pth"), ["InputError", "never downloaded"]),
        (("--grid", "found.gif"), ["InputError", "must end in .png"]),
        (("--device", "cuda:7"), ["ModelError", "cuda:7"]),
        (("-n", "7"), ["7 is not in the range"]),
    ],
)
def test_bad_options_are_refused_before_the_work(
    finished_run: FinishedRun, real: Path, options: tuple[str, ...], words: list[str]
) -> None:
    refused(2, *words, arguments=(finished_run.release, "--real", real, *options))


@pytest.mark.usefixtures("nothing_drawn")
def test_people_who_were_trained_on_are_no_others(finished_run: FinishedRun) -> None:
    data = finished_run.data
    refused(2, "DataError", "18 units", arguments=(finished_run.release, "--real", data, "--members", data))


def test_images_of_one_person_alone_are_refused(finished_run: FinishedRun, tmp_path: Path) -> None:
    write_folder(tmp_path / "real", 12, 32, first=700, per_patient=12)
    refused(2, "InputError", "one unit", arguments=(finished_run.release, "--real", tmp_path / "real", *QUICK))


@pytest.mark.slow
def test_a_study_with_classes_says_what_to_draw_and_its_simulation_tests_a_classifier(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undertone_cli import diagnostics

    for name, value in {"IMAGES": 8, "STEPS": 1, "RANDOM_DIRECTIONS": 1, "_PUBLIC_IMAGES": 8, "ATTACKED": 8}.items():
        monkeypatch.setattr(diagnostics, name, value)
    monkeypatch.setattr("undertone_cli.evaluating.classifiers.SHUFFLES", 1)
    monkeypatch.setattr("undertone.evaluation.classifier.STRENGTHS", (0.1,))
    method = {"name": "dpagg-ti", "steps": 2, "learning_rate": 0.2, "per_class": True, "share_scale": 0.1}
    method |= {"rescale": 50.0}  # so that the words move by what can be seen, whatever noise is drawn
    data = {"data__class_column": "finding", "data__classes": ["mass", "clear"], "data__caption": "a {token}"}
    study = tiny_study(tmp_path / "study.toml", tiny_base, method=method, cohort__units=None, **data)
    write_folder(tmp_path / "data", 96, 32, sites=SITES)
    options = ("--split-by", "site", "--holdout", 0.4, "--out", tmp_path / "run")
    done = call("simulate", study, "--data", tmp_path / "data", *options)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run" / "diagnostics.json").read_text(encoding="utf-8"))
    names = ["before", "after", "non-private mean", "random direction 1"]
    assert list(found["distance"]) == ["training images (floor)", *names]
    assert list(found["classifiers"]) == [*names, "real images"]
    assert [one["name"] for one in found["classifiers"]["after"]["classes"]] == ["mass", "clear"]
    assert len(found["shuffled"]["runs"]) == 1

    write_folder(tmp_path / "real", 24, 32, first=500)
    release, wanted = tmp_path / "run" / "release", ("--json", tmp_path / "found.json")
    again = call("evaluate", release, "--real", tmp_path / "real", *QUICK, *wanted)
    assert again.exit_code == 0, again.output
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert report["drawn"]["prompts"] == {"mass": "a <private-mass>", "clear": "a <private-clear>"}
    assert report["drawn"]["prompts_before"] == {"mass": "a picture", "clear": "a picture"}
    assert report["real"]["classes"] == {"mass": 12, "clear": 12}
    assert set(report["classifiers"]) >= {"before", "after"}


def test_help_teaches() -> None:
    found = call("evaluate", "--help")
    text = " ".join(found.stdout.split())
    for words in (
        "private diagnostics",
        "nothing is written into RELEASE",
        "never proof of privacy",
        "Example: undertone evaluate RELEASE --real",
        "without noise",
        "--class-column",
        "--members",
        "--inception",
    ):
        assert words in text, words


def test_options_and_fields_are_the_same() -> None:
    """A command's option that no field takes would end it, and a field that no option sets could not be reached."""
    named: set[Any] = {option.name for option in module.command.params}
    assert named - {"release", "real", "json_file", "grid_file"} == set(module.Options.__dataclass_fields__)
