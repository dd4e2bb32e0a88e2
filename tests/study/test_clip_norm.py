"""A clip norm that rows of public drawings show to be hopeless is refused before anything is charged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from tests.cli.test_startup import loaded
from tests.support.dummy import DummyBase, DummyMethod, make_dummy_base
from tests.support.images import write_folder
from tests.support.runs import SITES, call, tiny_study
from tests.support.studies import study_with, write_study
from undertone.core import public_cache
from undertone.methods.gradient.optimisers import OptimiserOptions, server_optimiser
from undertone.methods.registry import METHODS, method_for
from undertone.models.pinned import pin
from undertone.study import public_rows
from undertone.study.plan import Plan

MEDIAN = 2.0  # of the dummy method's public rows


class Rows:
    """Counts how often public rows are made, and of how many drawings."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def lengths(self, _base: object, _caption: str, count: int) -> NDArray[np.float64]:
        self.made.append(count)
        return np.linspace(MEDIAN - 1, MEDIAN + 1, count)


@pytest.fixture
def rows(dummy_method: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rows:
    """The dummy method's rows, counted, and an empty cache."""
    counted = Rows()
    monkeypatch.setattr(DummyMethod, "public_lengths", lambda _method, *asked: counted.lengths(*asked))
    monkeypatch.setattr(public_rows, "_loaded", lambda *_: DummyBase())
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    return counted


@pytest.fixture(scope="module")
def drawable_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dummy base whose images of 32 pixels are large enough for public drawings."""
    base = make_dummy_base(tmp_path_factory.mktemp("base") / "dummy")
    settings = base / "unet" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"sample_size": 8}))
    return base


@pytest.fixture
def plan(rows: Rows, drawable_base: Path, tmp_path: Path) -> Callable[..., Result]:
    """Plan the dummy study with some keys changed."""

    def planned(*options: str, **changes: Any) -> Result:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        tables = study_with({"privacy.allow_noisy": False, "privacy.clip_norm": MEDIAN} | keys, str(drawable_base))
        return call("plan", write_study(tmp_path / "study.toml", tables), *options)

    return planned


def one_line(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_a_plan_prints_c_over_the_median_public_row(plan: Callable[..., Result], rows: Rows) -> None:
    done = plan(privacy__clip_norm=1.5)
    assert done.exit_code == 0, done.output
    assert "C / median public row 0.75 (1.5 / 2, longest 3, 32 drawings)" in one_line(done.stdout)
    assert rows.made == [32]


def test_a_cold_and_a_warm_cache_give_the_same_plan_and_rows_are_made_once(
    plan: Callable[..., Result], rows: Rows
) -> None:
    for clip in (1.5, "auto"):
        cold, warm = plan("--json", privacy__clip_norm=clip), plan("--json", privacy__clip_norm=clip)
        assert (cold.exit_code, warm.exit_code) == (0, 0)
        assert cold.stdout == warm.stdout
        assert Plan.from_bytes(cold.stdout.strip().encode()).privacy.clip_origin in ("study", "public images")
    assert rows.made == [32], "auto's C and the check come from the same rows"


def test_whether_rows_are_known_does_not_enter_the_plan(
    plan: Callable[..., Result], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(public_rows, "UNASKED", 0.0)
        unknown = plan("--json", privacy__clip_norm=1.5)
    assert rows.made == []
    assert plan("--json", privacy__clip_norm=1.5).stdout == unknown.stdout
    assert rows.made == [32]


@pytest.mark.parametrize(
    "changed",
    [{"data__caption": "a small {token}"}, {"method": {"name": "dummy", "token": "<other>"}}],
    ids=["caption", "option"],
)
def test_other_rows_are_made_for_another_caption_or_option(
    plan: Callable[..., Result], rows: Rows, changed: dict[str, Any]
) -> None:
    assert plan().exit_code == plan(**changed).exit_code == 0
    assert rows.made == [32, 32]


def test_other_rows_are_made_for_another_base(
    plan: Callable[..., Result], rows: Rows, drawable_base: Path, tmp_path: Path
) -> None:
    other = make_dummy_base(tmp_path / "other")
    for name in ("unet", "text_encoder"):
        text = (drawable_base / name / "config.json").read_text()
        (other / name / "config.json").write_text(text.replace("{", '{"note": 1, '))
    assert plan().exit_code == plan(model__base=str(other)).exit_code == 0
    assert rows.made == [32, 32]


def test_new_code_makes_its_own_rows(plan: Callable[..., Result], rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan().exit_code == 0
    monkeypatch.setattr(public_rows, "package_sha256", lambda: "0" * 64)
    assert plan().exit_code == 0
    assert rows.made == [32, 32]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-9],
        lambda data: b"[]",
        lambda data: b"\xff\x00",
        lambda data: b"[" * 4000,
        lambda data: data.replace(b'"median":2.0', b'"median":9.0'),
        lambda data: data.replace(b'"median"', b'"middle"'),
    ],
    ids=["empty", "cut off", "a list", "no text", "deep", "another number", "another name"],
)
def test_a_damaged_entry_is_made_anew(
    plan: Callable[..., Result], rows: Rows, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = plan()
    (entry,) = (tmp_path / "cache" / "public-rows").iterdir()
    whole = entry.read_bytes()
    assert damage(whole) != whole
    entry.write_bytes(damage(whole))
    again = plan()
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert rows.made == [32, 32]
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("entry", [{"median": "2", "longest": 3.0, "drawings": 32}, {"median": 2.0}, [2.0], None])
def test_a_whole_entry_of_something_else_is_made_anew(
    plan: Callable[..., Result], rows: Rows, monkeypatch: pytest.MonkeyPatch, entry: Any
) -> None:
    monkeypatch.setattr(public_rows, "kept", lambda *_: entry)
    assert plan().exit_code == 0
    assert rows.made == [32]


def test_a_cache_that_cannot_be_written_costs_time_alone_and_is_said(
    plan: Callable[..., Result], rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        done = plan()
        assert done.exit_code == 0
        assert "could not be kept" in one_line(done.stderr)
    assert rows.made == [32, 32]


def test_the_cache_is_where_the_user_says_or_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("UNDERTONE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert public_cache.folder("public-rows") == tmp_path / ".cache" / "undertone" / "public-rows"
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert public_cache.folder("public-rows") == Path("/shared/undertone/public-rows")
    monkeypatch.setenv("UNDERTONE_CACHE", "/own")
    assert public_cache.folder("public-rows") == Path("/own/public-rows")


def test_a_user_without_a_home_has_no_cache(plan: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNDERTONE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    done = plan()
    assert done.exit_code == 0
    assert "could not be kept" in one_line(done.stderr)


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_c_far_below_public_rows_is_refused_by_name(plan: Callable[..., Result], json_too: tuple[str, ...]) -> None:
    done = plan(*json_too, privacy__clip_norm=0.2)
    assert done.exit_code == 3
    said = one_line(done.stderr)
    assert said.startswith("FaintRelease: privacy.clip_norm = 0.2 is 0.1 times the median length 2 ")
    assert 'Say privacy.clip_norm = "auto", or about 2' in said
    assert "Next:" not in done.stdout
    assert plan(*json_too, privacy__clip_norm=0.2, privacy__allow_noisy=True).exit_code == 0


def test_what_a_method_stretches_again_may_be_short(plan: Callable[..., Result]) -> None:
    assert plan(privacy__clip_norm=0.2, method={"name": "dummy", "rate": 10.0}).exit_code == 0
    assert plan(privacy__clip_norm="auto", method={"name": "dummy", "rate": 0.01}).exit_code == 3


def test_a_c_far_above_every_public_row_is_refused_by_name(plan: Callable[..., Result]) -> None:
    done = plan(privacy__clip_norm=1000.0)
    assert done.exit_code == 3
    said = one_line(done.stderr)
    assert said.startswith("NoisyRelease: privacy.clip_norm = 1000 is 500 times the median length 2 ")
    assert "the longest of which is 3" in said
    planned = Plan.from_bytes(plan("--json", privacy__clip_norm=1000.0).stdout.strip().encode())
    over_rows = planned.privacy.noise_to_signal * 1000 / 3
    assert f"noise-to-signal, public rows {over_rows:.2f}: C is longer" in one_line(done.stdout)
    assert plan(privacy__clip_norm=1000.0, privacy__allow_noisy=True).exit_code == 0
    assert plan(privacy__clip_norm=100.0).exit_code == 0, "noise that stays below the signal is nobody's business"


def test_a_large_base_is_measured_when_somebody_asks(
    plan: Callable[..., Result], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_rows, "UNASKED", 0.0)
    done = plan(privacy__clip_norm=0.2)
    assert done.exit_code == 0
    assert "not measured: 4 passes" in one_line(done.stdout)
    assert "undertone plan STUDY.toml --measure-rows" in one_line(done.stdout)
    assert rows.made == []
    assert plan("--measure-rows", privacy__clip_norm=0.2).exit_code == 3
    assert plan(privacy__clip_norm=0.2).exit_code == 3, "and it is known from then on"
    assert rows.made == [DummyMethod.few_drawings]


def test_fewer_drawings_are_made_where_all_would_take_long(
    plan: Callable[..., Result], rows: Rows, drawable_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = public_rows.work(pin(str(drawable_base)), DummyMethod(DummyMethod.options_type()), 32)
    monkeypatch.setattr(public_rows, "UNASKED", whole / 2)
    assert plan().exit_code == 0
    assert rows.made == [4]


def test_embedded_bases_are_measured_unasked_and_stable_diffusion_is_not(drawable_base: Path) -> None:
    options = {"dp-ldm": {"blocks": ["all"]}}
    for name in METHODS:
        method = method_for(name, options.get(name, {}))
        tiny = pin("embedded:tiny")
        assert public_rows.work(tiny, method, public_rows.DRAWINGS) <= public_rows.UNASKED
        # Stable Diffusion 1.5: 860e6 float32 weights, latents of 64 x 64, where tiny has 2e6 and 8 x 8.
        large = public_rows.work(tiny, method, method.few_drawings) * 3.4e9 / 8.1e6 * 64
        assert large > public_rows.UNASKED


def test_drawings_too_small_to_draw_and_rows_without_length_are_said(
    plan: Callable[..., Result], dummy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "too small for public drawings" in one_line(plan(model__base=str(dummy_base)).stdout)
    for length in (0.0, np.nan, np.inf):
        monkeypatch.setattr(DummyMethod, "public_lengths", lambda *_, length=length: np.full(32, length))
        done = plan()
        assert done.exit_code == 0
        assert "no length on this base" in one_line(done.stdout)


def test_only_a_one_shot_methods_reach_follows_from_c() -> None:
    options = {"dp-ldm": {"blocks": ["all"]}}
    for name in METHODS:
        method = method_for(name, options.get(name, {}))
        assert (method.reach(1.0, 8.0) == 0.125) is method.one_shot
        assert (method.reach(8.0, 1.0) == 1.0) is method.one_shot
        assert method.one_shot or method.reach(1e-6, 1.0) is None


@pytest.mark.parametrize(("optimiser", "follows"), [("sgd", True), ("adam", False), ("adamw", False), ("dog", False)])
def test_a_short_c_shortens_steps_of_sgd_alone(optimiser: str, follows: bool) -> None:
    """A C of a thousandth makes signal and noise a thousandth: all but SGD divide by it, and its rate is free."""
    decay = {"weight_decay": 1e-9} if optimiser == "adamw" else {}
    server = server_optimiser(OptimiserOptions.model_validate({"optimiser": optimiser, **decay}))
    means = np.random.Generator(np.random.Philox(key=1)).standard_normal((5, 64))
    moved = []
    for shorter in (1.0, 1e-3):
        state = server.start(np.zeros(64, dtype=np.float32))
        for mean in means:
            state = server.advance(state, shorter * mean)
        moved.append(float(np.linalg.norm(server.released(state))))
    assert moved[1] == pytest.approx(moved[0] * (1e-3 if follows else 1), rel=1e-3)


def test_a_simulation_is_refused_before_anything_is_written(tiny_base: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    words = ["--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run"]
    study = tiny_study(tmp_path / "study.toml", tiny_base, privacy__clip_norm=1e-6, privacy__allow_noisy=False)
    study.write_text(study.read_text().replace("epsilon = 4.0", "epsilon = 100.0"))  # so that noise is no reason
    done = call("simulate", study, *words)
    assert done.exit_code == 3, done.output
    assert done.stderr.splitlines()[-1].startswith("FaintRelease"), done.stderr
    assert "C / median public row" in done.stdout
    assert not list(tmp_path.glob("*run*"))


def test_the_study_that_released_its_base_is_refused_and_a_warm_plan_loads_no_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """clip_norm = 1 on embedded:tiny, where public rows have a length of 6.8."""
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    tables = study_with({"method": {"name": "dpagg-ti"}, "privacy.allow_noisy": False}, "embedded:tiny")
    study = write_study(tmp_path / "study.toml", tables)
    cold = call("plan", study)
    assert cold.exit_code == 3
    assert "FaintRelease: privacy.clip_norm = 1 is 0.14" in cold.stderr
    code, names = loaded("plan", study)
    assert code == 3
    assert "dp_accounting" in names
    assert not names & {"torch", "diffusers", "transformers"}
    assert call("plan", study).stdout == cold.stdout
