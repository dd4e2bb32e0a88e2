"""Rows in public directions: project, then clip; made alike by everybody, of nothing that a site read; made once."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.test_startup import loaded
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from tests.support.unit_batches import grid_for
from undertone.core import public_cache
from undertone.errors import DirectionsDiffer, MechanismViolation, StudyError
from undertone.methods.gradient import kept_directions, public_directions
from undertone.methods.gradient.directions import Directions
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.protocol import PreparedMethod, UnitRecords, settled
from undertone.methods.registry import method_for
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.privacy.quantise import Grid, clip_and_quantise
from undertone.public_images import procedural
from undertone.study.resolve import resolve
from undertone.study.schema import load_study
from undertone_client.compute.preparing import dry_run

K, HELD_OUT = 5, 2
SMALL = {"directions": K, "direction_drawings": 8}
CAPTION = "a picture"


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What directions keep is not looked at here."""
    monkeypatch.setattr(public_directions, "_HELD_OUT", HELD_OUT)


def made(base: PinnedBase, name: str = "dp-ldm", caption: str = CAPTION, **options: Any) -> GradientMethod:
    """A method as it stands in a plan; the smallest one, unless said."""
    small = {"blocks": ["mid_block"], "embedder": False} if name == "dp-ldm" else {}
    method, _ = settled(method_for(name, {**SMALL, **small, **options}), base, caption)
    assert isinstance(method, GradientMethod)
    return method


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """A machine that keeps nothing; calling it makes it forget again, as a new process would."""
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    kept_directions.forget()
    return kept_directions.forget


@pytest.fixture
def makings(monkeypatch: pytest.MonkeyPatch, fresh: Callable[[], None]) -> list[str]:
    """Whose directions are made, in order."""
    seen: list[str] = []
    make = public_directions.PublicDirections._make
    monkeypatch.setattr(
        public_directions.PublicDirections, "_make", lambda self, base: (seen.append(self.method), make(self, base))[1]
    )
    return seen


def unit(number: int, caption: str = CAPTION) -> UnitRecords:
    drawn = np.random.Generator(np.random.Philox(key=50 + number))
    latents = drawn.standard_normal((1, 4, 8, 8), dtype=np.float32)
    return UnitRecords(latents, (caption,), np.random.Generator(np.random.Philox(key=number)))


def rows(method: GradientMethod, base: LoadedBase, c: NDArray[np.float32], units: list[UnitRecords]) -> Any:
    return method.rows(base, c, units, lambda _steps: None)


C = (0.3 * np.random.Generator(np.random.Philox(key=2)).standard_normal(K)).astype(np.float32)

# --- the row --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpsgd-ti", "dp-lora", "dp-ldm"])
def test_a_row_is_the_gradient_at_w_in_public_directions(pinned: PinnedBase, name: str) -> None:
    base, caption = load_base(pinned), "a {token}" if name == "dpsgd-ti" else CAPTION
    method = made(pinned, name, caption)
    plain = type(method)(method.options.model_copy(update={"directions": 0}))
    basis = method._directions(pinned).found().basis.astype(np.float64)
    w = (plain._start(pinned) + basis.T @ C).astype(np.float32)
    units = [unit(number, caption.replace("{token}", "<private>")) for number in range(3)]
    whole = rows(plain, base, w, [replace(one, generator=unit(n).generator) for n, one in enumerate(units)])
    found = rows(method, base, C, units)
    assert whole.shape == (3, plain.dimension(pinned))
    np.testing.assert_allclose(found, whole.astype(np.float64) @ basis.T, atol=1e-4 * np.abs(found).max())
    assert (np.linalg.norm(found, axis=1) <= np.linalg.norm(whole, axis=1) * (1 + 1e-5)).all()


def test_a_row_is_equal_to_the_bit_whoever_stands_beside_it(
    pinned: PinnedBase, base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of one shape, as a worker makes them; also where gradients are so long that only two fit at a time."""
    method = made(pinned)
    row = 4 * method.layout(pinned).size
    for mib in (1 << 20, 2 * row // method.options.largest_row_mib + 1):
        monkeypatch.setattr("undertone.methods.gradient.method._MIB", mib)
        everyone = rows(method, base, C, [unit(number) for number in range(5)])
        for others in ([3, 9, 10, 11, 12], [4, 3, 2, 1, 0], [0, 0, 0, 0, 3]):
            found = rows(method, base, C, [unit(number) for number in others])
            for place, number in enumerate(others):
                if number < 5:
                    np.testing.assert_array_equal(found[place], everyone[number])


def test_a_last_batch_has_the_shape_of_the_others(
    pinned: PinnedBase, base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels choose their order of summation by shape, so a shorter batch could move a row in its last bits."""
    from undertone.methods.gradient import unit_gradients as module

    seen, of_units = [], module.unit_gradients
    monkeypatch.setattr(
        module,
        "unit_gradients",
        lambda base, trained, units, *rest: seen.append(len(units)) or of_units(base, trained, units, *rest),
    )
    method = made(pinned)
    monkeypatch.setattr("undertone.methods.gradient.method._MIB", 2 * 4 * method.layout(pinned).size // 64 + 1)
    seen.clear()
    assert rows(method, base, C, [unit(number) for number in range(5)]).shape == (5, K)
    assert seen == [2, 2, 2]


def test_a_unit_moves_the_integer_sum_by_s_c_at_most_whatever_the_directions_are(
    pinned: PinnedBase, base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip comes after the projection, so not even directions that lengthen can move a sum further."""
    method = made(pinned)
    found = method._directions(pinned).found()
    for stretch in (1, 1000):
        stretched = Directions(found.basis * np.float32(stretch), 0, 0)
        monkeypatch.setattr(public_directions.PublicDirections, "found", lambda *_, held=stretched: held)
        everyone = rows(method, base, C, [unit(number) for number in range(4)])
        lengths = np.linalg.norm(everyone.astype(np.float64), axis=1)
        scale, clip_units = grid_for(float(np.median(lengths)) / stretch)
        grid = Grid(scale, clip_units, 1 << 30, 32)
        total = clip_and_quantise(everyone, grid).sum(axis=0)
        for number in range(4):
            without = clip_and_quantise(np.delete(everyone, number, axis=0), grid).sum(axis=0)
            assert sum(int(q) ** 2 for q in total - without) <= clip_units**2


def test_long_gradients_give_short_rows_that_are_kept_and_not_summed(
    pinned: PinnedBase, base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(pinned)
    monkeypatch.setattr("undertone.methods.gradient.method._MIB", 1)
    assert type(method)(method.options.model_copy(update={"directions": 0})).sums(pinned)
    assert not method.sums(pinned)
    assert (method.dimension(pinned), method.initial_state(pinned)[:K].tolist()) == (K, [0.0] * K)
    with pytest.raises(MechanismViolation, match="one by one"):
        method.clipped_sum(base, C, [unit(0)], scale=1024, clip_units=1024)


# --- what they are made of ------------------------------------------------------------------------


def test_they_are_made_of_drawings_alone_and_of_others_than_those_that_set_c(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []
    draw = procedural.draw

    def seen(seed: int, index: int, size: int, kinds: object) -> procedural.PublicImage:
        assert kinds is None
        drawn.append((seed, index))
        return draw(seed, index, size)

    monkeypatch.setattr("undertone.methods.public.draw", seen)
    method = made(pinned)
    of_directions = list(drawn)
    assert len(set(of_directions)) == SMALL["direction_drawings"] + HELD_OUT
    method.public_lengths(base, CAPTION, 4)
    assert not set(drawn[len(of_directions) :]) & set(of_directions)
    assert len({seed for seed, _ in drawn}) == 3


def test_c_is_the_length_of_public_rows_as_units_have_them(pinned: PinnedBase, base: LoadedBase) -> None:
    method = made(pinned)
    whole = type(method)(method.options.model_copy(update={"directions": 0}))
    short, long = (one.public_lengths(base, CAPTION, 4) for one in (method, whole))
    assert (short <= long * (1 + 1e-5)).all()
    assert (short < long * (1 - 1e-3)).any()
    assert (short > 0).all()


def test_they_are_the_same_whoever_makes_them_and_whatever_units_were_there_before(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], makings: list[str], tmp_path: Path
) -> None:
    """Two sites with other data, each a machine that makes its own: equal to the bit."""
    method, found = made(pinned), []
    for first in (0, 70):
        fresh()
        for entry in public_cache.folder("public-directions").glob("*"):
            entry.unlink()
        rows(method, base, C, [unit(number) for number in range(first, first + 4)])
        found.append(method._directions(pinned).found().basis)
    assert makings == ["dp-ldm"] * 3, "once for the plan, once at each site"
    np.testing.assert_array_equal(*found)


# --- plan and node agree --------------------------------------------------------------------------


def test_a_plan_says_which_they_are_and_another_machine_refuses_others(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(pinned)
    assert isinstance(method, PreparedMethod)
    assert len(method.options.direction_check.split()) == 16
    assert method.options.direction_caption == CAPTION
    method.prepare(pinned, base)
    monkeypatch.setattr(public_directions, "_SEED", 7)  # as if its libraries drew otherwise
    fresh()
    for entry in public_cache.folder("public-directions").glob("*"):
        entry.unlink()
    with pytest.raises(DirectionsDiffer, match="not those of the plan"):
        method.prepare(pinned, base)
    with pytest.raises(DirectionsDiffer):
        rows(method, base, C, [unit(0)])
    with pytest.raises(DirectionsDiffer):
        method.weights(pinned, C)


def test_a_plan_that_does_not_say_is_refused(pinned: PinnedBase, base: LoadedBase) -> None:
    with pytest.raises(DirectionsDiffer, match="plan anew"):
        method_for("dp-ldm", SMALL).prepare(pinned, base)  # type: ignore[attr-defined]


def test_a_study_cannot_say_it_wrongly(pinned: PinnedBase) -> None:
    with pytest.raises(StudyError, match="leave it out"):
        made(pinned, direction_check=" ".join(["0.00"] * 16))


def test_without_directions_nothing_is_made_or_said(pinned: PinnedBase, base: LoadedBase, makings: list[str]) -> None:
    plain = method_for("dp-lora", {})
    assert settled(plain, pinned, CAPTION) == (plain, ())
    plain.prepare(pinned, base)  # type: ignore[attr-defined]
    assert not makings


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"directions": 17, "direction_drawings": 17}, "adapts 16 values"),
        ({"direction_drawings": 4096, "directions": 9}, "Lower method.direction_drawings and method.directions"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    pinned: PinnedBase, options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_directions, "_LARGEST", 200_000)
    with pytest.raises(StudyError, match=named):
        made(pinned, "dpsgd-ti", "a {token}", **options)


def test_a_node_makes_none_that_are_too_large(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a plan asks for: before anything is drawn."""
    method = made(pinned)
    fresh()
    monkeypatch.setenv("UNDERTONE_CACHE", "/nowhere")
    monkeypatch.setattr(public_directions, "_LARGEST", 1000)
    monkeypatch.setattr(public_directions.PublicDirections, "_of_drawings", lambda *_: pytest.fail("drawn"))
    with pytest.raises(StudyError, match="GiB"):
        method.prepare(pinned, base)


@pytest.fixture
def study(tiny_base: Path, tmp_path: Path, fresh: Callable[[], None]) -> Callable[..., Path]:
    """A study with its own C."""

    def written(**options: Any) -> Path:
        method = {"name": "dp-lora", **options}
        changes = {"method": method, "data.caption": "a picture", "privacy.rounds": 4, "privacy.clip_norm": 0.1}
        return write_study(tmp_path / "study.toml", study_with(changes, str(tiny_base)))

    return written


def test_noise_enters_k_values_and_the_plans_figure_says_so(study: Callable[..., Path], pinned: PinnedBase) -> None:
    whole, short = (resolve(load_study(study(**options))) for options in ({"directions": 0}, SMALL))
    d = method_for("dp-lora", {}).layout(pinned).size
    assert (whole.method.dimension, short.method.dimension) == (d, K)
    assert short.method.layout_digest == whole.method.layout_digest
    assert short.privacy.sigma / short.grid.clip_units == pytest.approx(whole.privacy.sigma / whole.grid.clip_units)
    expected = whole.privacy.noise_to_signal * (K / d) ** 0.5
    assert short.privacy.noise_to_signal == pytest.approx(expected, rel=1e-3)


def test_a_plan_prints_what_they_keep_and_a_second_one_loads_no_model(study: Callable[..., Path]) -> None:
    path = study(**SMALL)
    first, second = call("plan", path), call("plan", path)
    assert first.exit_code == 0, first.output
    text = " ".join(first.stdout.replace("│", " ").split())
    assert re.search(rf"public directions {K} in [\d,]+ values, from 8 drawings; they keep \d+% of other", text)
    assert second.stdout == first.stdout
    code, names = loaded("plan", path)
    assert code == 0
    assert not names & {"torch", "diffusers", "transformers"}


def test_a_dry_run_computes_a_row_in_them(pinned: PinnedBase) -> None:
    dry_run(SimpleNamespace(config=SimpleNamespace(device="cpu", dtype="float32")), pinned, made(pinned))  # type: ignore[arg-type]


# --- they are made once ---------------------------------------------------------------------------


def test_a_second_process_and_a_lighter_method_make_none(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], makings: list[str]
) -> None:
    method = made(pinned, draws=4)
    before = method._directions(pinned).found().basis
    fresh()
    for _, lighter in method.lighter():
        lighter.prepare(pinned, base)
    again = made(pinned, draws=3, learning_rate=0.5, records=2, optimiser="sgd")
    np.testing.assert_array_equal(again._directions(pinned).found().basis, before)
    assert makings == ["dp-ldm"]


@pytest.mark.parametrize(
    "changed",
    [{"min_time": 0.5}, {"directions": 4}, {"direction_drawings": 9}, {"blocks": ["up_blocks"]}, {"caption": "a"}],
    ids=lambda changed: next(iter(changed)),
)
def test_others_are_made_for_another_option_or_caption(
    pinned: PinnedBase, fresh: Callable[[], None], makings: list[str], changed: dict[str, Any]
) -> None:
    one, other = made(pinned), made(pinned, **changed)
    assert len(makings) == 2
    assert one.options.direction_check != other.options.direction_check


def test_others_are_made_for_another_base_or_other_code(
    pinned: PinnedBase, epsilon_base: Path, makings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(pinned)
    made(pin(str(epsilon_base)))
    monkeypatch.setattr(public_directions, "package_sha256", lambda: "0" * 64)
    made(pinned)
    assert len(makings) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    ],
    ids=["empty", "cut off", "a bit"],
)
@pytest.mark.parametrize("ending", ["npy", "json"])
def test_a_damaged_entry_is_made_anew(
    pinned: PinnedBase,
    base: LoadedBase,
    fresh: Callable[[], None],
    makings: list[str],
    damage: Callable[[bytes], bytes],
    ending: str,
) -> None:
    method = made(pinned)
    before = method._directions(pinned).found().basis
    (entry,) = public_cache.folder("public-directions").glob(f"*.{ending}")
    entry.write_bytes(damage(entry.read_bytes()))
    fresh()
    method.prepare(pinned, base)
    np.testing.assert_array_equal(method._directions(pinned).found().basis, before)
    assert len(makings) == 2


def test_an_entry_that_is_whole_and_another_is_made_anew(
    pinned: PinnedBase, base: LoadedBase, fresh: Callable[[], None], makings: list[str]
) -> None:
    from undertone.core.durable import write_array

    method = made(pinned)
    basis = method._directions(pinned).found().basis
    (entry,) = public_cache.folder("public-directions").glob("*.npy")
    for other in (basis[::-1].copy(), basis.astype(np.float64), basis[0]):
        write_array(entry, other)
        fresh()
        method.prepare(pinned, base)
    assert len(makings) == 4


def test_a_cache_that_cannot_be_written_costs_time_alone(
    pinned: PinnedBase, fresh: Callable[[], None], makings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        made(pinned)
        fresh()
    assert len(makings) == 2


def test_the_newest_few_are_kept(
    pinned: PinnedBase, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_directions, "_ON_DISK", 2)
    monkeypatch.setattr(
        public_directions.PublicDirections, "_make", lambda self, _: Directions(np.eye(K, 40, dtype="f4"), 0.5, 0.5)
    )
    for caption in ("a", "b", "c"):
        made(pinned, caption=caption)
    assert len(list(public_cache.folder("public-directions").glob("*.npy"))) == 2
