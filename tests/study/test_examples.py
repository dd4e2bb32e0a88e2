"""The studies that ship: a page names each, each makes a plan, and the two of dp-feta make one claim by their files."""

from pathlib import Path

import pytest

from tests.support.bases import tiny_class_base
from tests.support.lineage import start_from
from undertone.methods.choosing import WarmStarted
from undertone.methods.registry import method_for
from undertone.privacy.accounting import epsilon_claim
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.study.resolve import resolve
from undertone.study.schema import Study, load_study
from undertone.study.start import PlannedStart

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path for path in (ROOT / "examples").glob("*.toml") if not path.name.startswith("pretrain-"))
FETA = ("dp-feta-prototypes", "dp-feta")


@pytest.fixture(scope="module")
def letters_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In place of the one that examples/pretrain-letters.toml makes: told a letter."""
    return tiny_class_base(tmp_path_factory.mktemp("letters") / "base", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def on(study: Study, base: Path) -> Study:
    return study.model_copy(update={"model": study.model.model_copy(update={"base": str(base)})})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_an_example_is_a_study_that_a_page_names(path: Path) -> None:
    study = load_study(path)
    method_for(study.method.name, study.method.options)
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    assert any(f"examples/{path.name}" in page for page in pages)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in STUDIES if path.stem not in FETA], ids=lambda path: path.stem)
def test_an_example_makes_a_plan(path: Path, tiny_base: Path, letters_base: Path) -> None:
    study = load_study(path)
    plan = resolve(on(study, letters_base if study.model.base.startswith("runs/letters") else tiny_base))
    assert 0.99 * study.privacy.epsilon < plan.privacy.epsilon <= study.privacy.epsilon


@pytest.mark.slow
def test_the_two_of_dp_feta_make_one_claim(tmp_path: Path, letters_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their files as they stand, from the folder that they say."""
    for name in FETA:
        text = (ROOT / "examples" / f"{name}.toml").read_text(encoding="utf-8")
        (tmp_path / "examples").mkdir(exist_ok=True)
        few = text.replace("draws = 4 ", "draws = 1 ").replace('kinds = ["letter"]', "public_drawings = 256")
        (tmp_path / "examples" / f"{name}.toml").write_text(few, encoding="utf-8")
    (tmp_path / "runs" / "letters").mkdir(parents=True)
    (tmp_path / "runs" / "letters" / "pipeline").symlink_to(letters_base)
    monkeypatch.chdir(tmp_path)
    one, two = (load_study(Path("examples") / f"{name}.toml") for name in FETA)
    assert one.model.base == two.model.base
    assert isinstance(method_for(two.method.name, two.method.options), WarmStarted)
    first = resolve(one)
    assert first.successor is not None
    assert (first.successor.study, first.privacy.epsilon <= 10.0) == (two.study.name, True)
    start = PlannedStart.model_validate(start_from(first, images=two.model.start_images, steps=two.model.start_steps))
    second = resolve(two, start=start)
    assert second.joint
    assert second.privacy.epsilon == first.privacy.epsilon > 9.99
    assert epsilon_claim(second.charges, 1e-5) <= 9.5
    assert 1.0 < epsilon_claim(first.charges, 1e-5) < 9.5
    for plan in (first, second):
        check_claim(Plan.from_bytes(plan.as_bytes()))
    assert two.model.start is not None
    run = Path(two.model.start).parent
    assert f"--out {run}\n" in (ROOT / "examples" / "dp-feta-prototypes.toml").read_text(encoding="utf-8")
