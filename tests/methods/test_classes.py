"""A word for each class (PRIVACY 23): one row, clipped once; noisy shares divide; a floor; names that are new."""

from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from undertone.core.canonical import canonical_json
from undertone.errors import MechanismViolation, PlanChanged, StudyError, UnfitWeights
from undertone.methods.classed import ClassedMethod, check_classes, prompts_by_class, scaled, with_classes
from undertone.methods.classes import FLOOR, Shares, divisors, shares_of
from undertone.methods.protocol import UnitRecords, stages_of
from undertone.methods.registry import method_for
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI
from undertone.methods.textual_inversion.dpsgd_ti import DPSGDTI, CountingClasses
from undertone.methods.textual_inversion.inversion import Inversion, invert
from undertone.methods.textual_inversion.release import WORDS, WORDS_FILE
from undertone.methods.textual_inversion.token import class_tokens
from undertone.methods.weights import attach, read_weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.privacy.quantise import Grid, clip_and_quantise, sum_of_blocks
from undertone.privacy.stages import Contributions
from undertone_client.compute.padding import padded

CLASSES = ["pneumonia", "none", "mass"]  # in no order of names
A, WIDTH = 0.4, 6


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


def aggregating(**options: Any) -> DPAggTI:
    made = with_classes(method_for("dpagg-ti", {"steps": 4, "per_class": True, "share_scale": A, **options}), CLASSES)
    assert isinstance(made, DPAggTI)
    return made


def training(**options: Any) -> DPSGDTI:
    made = with_classes(method_for("dpsgd-ti", {"draws": 2, "records": 4, "per_class": True, **options}), CLASSES)
    assert isinstance(made, DPSGDTI)
    return made


def unit(number: int, *places: int, token: str) -> UnitRecords:
    """One image of each class named."""
    drawn = np.random.Generator(np.random.Philox(key=500 + number))
    latents = drawn.standard_normal((len(places), 4, 8, 8), dtype=np.float32)
    generator = np.random.Generator(np.random.Philox(key=number))
    return UnitRecords(latents, (f"a {token}",) * len(places), generator, classes=np.array(places))


# --- the row ------------------------------------------------------------------------------------------


def test_a_row_is_shares_and_each_class_times_its_share(base: LoadedBase, pinned: PinnedBase) -> None:
    """Against a slow oracle: each class's word learned as in the paper, where only that class's images teach it."""
    method = aggregating()
    units = [unit(0, 0, 1, 1, token=method.token), unit(1, 2, token=method.token)]
    rows = method.rows(base, method.initial_state(pinned), units, lambda _steps: None)
    order = sorted(range(3), key=lambda place: class_tokens("<private>", CLASSES)[place])
    assert [CLASSES[place] for place in order] == ["mass", "none", "pneumonia"]
    np.testing.assert_allclose(rows[:, :3], A * np.array([[0, 2 / 3, 1 / 3], [1, 0, 0]]), rtol=1e-6)
    words = rows[:, 3:].reshape(2, 3, -1)
    assert (words[0, 0] == 0).all()
    assert (words[1, 1:] == 0).all()
    # A unit of one class learns what it would without classes.
    plain = Inversion(["<private>"], 1, 4, method.options.learning_rate, method.options.min_time)
    alone = unit(1, 2, token="<private>")
    start = pinned.embedding_of("picture").reshape(1, -1)
    np.testing.assert_allclose(words[1, 0], invert(base, start, [alone], plain, lambda _n: None)[0], atol=1e-5)
    # The mixed unit's words by themselves: the same loop without weights.
    named = [method.words.by_class(one) for one in units]
    every = Inversion(method.words.tokens, 1, 4, method.options.learning_rate, method.options.min_time)
    fresh = [unit(0, 0, 1, 1, token=method.token)]
    named = [method.words.by_class(one) for one in fresh]
    learned = invert(base, np.repeat(start, 3, axis=0), named, every, lambda _n: None).reshape(3, -1)
    np.testing.assert_allclose(words[0, 1], learned[1] * 2 / 3, atol=1e-6)
    np.testing.assert_allclose(words[0, 2], learned[2] / 3, atol=1e-6)


@pytest.mark.parametrize("make", [aggregating, training])
def test_records_without_a_class_make_no_row(make: Any, base: LoadedBase, pinned: PinnedBase) -> None:
    method = make()
    state = method.initial_state(pinned)[: method.dimension(pinned)]
    lacking = UnitRecords(np.zeros((1, 4, 8, 8), np.float32), ("a",), np.random.Generator(np.random.Philox(key=1)))
    stranger = unit(1, 3, token=method.token)
    for one in (lacking, stranger):
        with pytest.raises(MechanismViolation, match="a class of the plan's list"):
            method.rows(base, state, [one], lambda _steps: None)


def test_gradients_are_in_the_words_of_a_units_own_classes(base: LoadedBase, pinned: PinnedBase) -> None:
    method = training()
    state = method.initial_state(pinned)[: method.dimension(pinned)]
    units = [unit(0, 0, 1, token=method.token), unit(1, 2, token=method.token)]
    rows = method.rows(base, state, units, lambda _steps: None).reshape(2, 3, -1)
    assert [bool(row.any()) for row in rows[0]] == [False, True, True]
    assert [bool(row.any()) for row in rows[1]] == [True, False, False]


def test_the_first_round_of_dpsgd_ti_is_the_shares(base: LoadedBase, pinned: PinnedBase) -> None:
    first, last = stages_of(training(), pinned)
    assert (first.row, first.rounds, first.clip_norm) == (3, 1, 1.0)
    assert isinstance(first.method, CountingClasses)
    units = [unit(0, 0, 1, 1, 1, token="<x>"), unit(1, 2, token="<x>")]
    rows = first.method.rows(base, np.zeros(0, np.float32), units, lambda _steps: None)
    np.testing.assert_array_equal(rows, np.array([[0, 0.75, 0.25], [1, 0, 0]], dtype=np.float32))
    assert last.row == training().dimension(pinned)
    with pytest.raises(MechanismViolation, match="step_from"):
        first.method.step(np.zeros(4, np.float32), np.zeros(3))


@pytest.mark.parametrize("make", [aggregating, training])
def test_the_order_in_which_classes_were_typed_moves_no_row(make: Any, base: LoadedBase, pinned: PinnedBase) -> None:
    """A word goes with its name: the same records, their places counted in a shuffled list, give the same bits."""
    rows = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        method = make().of_classes([CLASSES[place] for place in order])
        units = [
            unit(number, *(order.index(place) for place in places), token=method.token)
            for number, places in enumerate(((0, 1, 1), (2,), (1, 0)))
        ]
        state = method.initial_state(pinned)[: method.dimension(pinned)]
        rows.append(method.rows(base, state, units, lambda _steps: None))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


@pytest.mark.parametrize("make", [aggregating, training])
def test_a_row_is_equal_to_the_bit_whoever_stands_beside_it(make: Any, base: LoadedBase, pinned: PinnedBase) -> None:
    """Neighbours of other classes, and padding, in a batch of one shape."""
    method = make()
    state = method.initial_state(pinned)[: method.dimension(pinned)]

    def row(*others: tuple[int, tuple[int, ...]]) -> NDArray[np.float32]:
        batch = [unit(number, *places, token=method.token) for number, places in (*others, (0, (0, 1, 1)))]
        found: NDArray[np.float32] = method.rows(base, state, padded(batch, 4), lambda _steps: None)[len(others)]
        return found

    alone = row()
    for others in ([(1, (2,))], [(1, (2, 2, 2)), (2, (0, 1, 2)), (3, (1,))], [(5, (1, 0))]):
        np.testing.assert_array_equal(row(*others), alone)


# --- sensitivity --------------------------------------------------------------------------------------


Unit = tuple[list[int], NDArray[np.float64]]
"""How many images of each class a unit has, and what it learned of each [3, WIDTH]."""


def class_rows(units: list[Unit]) -> NDArray[np.float32]:
    """Rows of units as the method makes them, in one batch."""
    learned = np.stack([words.reshape(-1) for _, words in units]).astype(np.float32)
    shares = np.stack([shares_of(np.repeat(np.arange(len(counts)), counts), len(counts)) for counts, _ in units])
    return aggregating()._by_class(learned, shares)


def class_row(counts: list[int], words: NDArray[np.float64]) -> NDArray[np.float32]:
    """The row of one unit."""
    return class_rows([(counts, words)])[0]


LENGTHS = st.sampled_from([0.0, 1e-6, 0.3, 1.0, 17.0, 1e4])
# Images of each class that a unit has: of two classes at least.
SEVERAL = st.sampled_from([list(one) for one in product(range(6), repeat=3) if sum(map(bool, one)) >= 2])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    SEVERAL,
    st.lists(st.tuples(LENGTHS, LENGTHS, LENGTHS), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
def test_adding_a_unit_of_two_classes_moves_the_integer_sum_by_s_c_at_most(
    shares: list[int], neighbours: list[tuple[float, float, float]], seed: int
) -> None:
    """Exactly, in integers; beside neighbours that point against the unit, are far longer, or cancel each other.

    The rows of each data set are made in one batch: one that followed from how often a class is there would move.
    """
    drawn = np.random.Generator(np.random.Philox(key=seed))
    unit = shares, drawn.standard_normal((3, WIDTH)) * 10.0 ** drawn.integers(-3, 4)
    mine = class_row(*unit)
    against = -mine[3:].reshape(3, WIDTH).astype(np.float64)
    others: list[Unit] = [
        ([1, 1, 1], sign * against * np.array(lengths)[:, None]) for sign in (1, -1) for lengths in neighbours
    ]
    for scale, clip_units in ((1 << 12, 1024), (1 << 20, 4_000_001)):
        grid = Grid(scale, clip_units, (1 << 31) - 1, 32)
        without, with_it = (summed(list(class_rows(units)), grid) for units in (others, [*others, unit]))
        moved = with_it - without
        assert int(sum(int(one) ** 2 for one in moved)) <= clip_units**2
        np.testing.assert_array_equal(moved, clip_and_quantise(mine[None], grid)[0])


def summed(rows: list[NDArray[np.float32]], grid: Grid) -> NDArray[np.int64]:
    blocks = [Contributions(np.array(rows[first : first + 2])) for first in range(0, len(rows), 2)]
    return sum_of_blocks(blocks, 3 + 3 * WIDTH, grid)


def test_a_row_of_two_classes_is_not_clipped_class_by_class() -> None:
    """The clip keeps the row's direction: both classes and the shares are shortened alike."""
    row = class_row([1, 1, 0], np.full((3, WIDTH), 5.0))
    grid = Grid(1 << 20, 1 << 20, (1 << 31) - 1, 32)
    cut = clip_and_quantise(row[None], grid)[0] / grid.scale
    assert 0.99 < np.linalg.norm(cut) <= 1.0
    np.testing.assert_allclose(cut / np.linalg.norm(cut), row / np.linalg.norm(row), atol=1e-5)


# --- the step -----------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.fractions(-2, 50), min_size=1, max_size=5), st.fractions(0, 10))
def test_divisors_are_one_over_the_noisy_share_and_shrink_below_the_floor(
    noisy: list[Fraction], floor: Fraction
) -> None:
    """Against exact fractions."""
    found = divisors(np.array([float(one) for one in noisy]), float(floor))
    for one, divided in zip(noisy, found, strict=True):
        if one <= 0:
            expected = Fraction(0)
        elif one >= floor:
            expected = 1 / one
        else:
            expected = one / floor**2
        assert divided == pytest.approx(float(expected), rel=1e-9)


def test_a_word_is_its_noisy_sum_over_its_noisy_share(pinned: PinnedBase) -> None:
    """Whatever C, s, p and N are: those fall out. Shares are those of the sum, not of anybody's counts."""
    method, start = aggregating(rescale=2.0), aggregating().initial_state(pinned)
    width = pinned.embedding_width
    v0, sums = start.reshape(3, width), np.random.default_rng(1).standard_normal((3, width))
    shares = np.array([0.5, 0.2, 0.3])
    for scale in (1.0, 1e-3):
        mean = np.concatenate([A * shares, sums.reshape(-1)]) * scale
        words = method.step_from(start, mean, 0.0).reshape(3, width)
        np.testing.assert_allclose(words, v0 + 2 * sums / shares[:, None], rtol=1e-5)
        np.testing.assert_array_equal(words, method.step(start, mean).reshape(3, width))


def test_below_the_floor_a_word_goes_to_the_start(pinned: PinnedBase) -> None:
    method, start = aggregating(), aggregating().initial_state(pinned)
    width = pinned.embedding_width
    sums = np.ones((3, width))
    deviation = 0.01
    floor = FLOOR * deviation / A
    shares = np.array([2 * floor, floor / 4, -floor])
    mean = np.concatenate([A * shares, sums.reshape(-1)])
    moved = method.step_from(start, mean, deviation).reshape(3, width) - start.reshape(3, width)
    np.testing.assert_allclose(moved[0], 1 / (2 * floor), rtol=1e-4)
    np.testing.assert_allclose(moved[1], (1 / 4) / floor, rtol=1e-4)
    assert (moved[2] == 0).all()


def test_an_empty_class_hardly_moves_and_the_others_do() -> None:
    """Noise alone in a class: over many draws its word stays within a fraction of what the noise over F would be."""
    rng, draws, d, sigma = np.random.default_rng(7), 400, 64, 1.0
    floor = FLOOR * sigma / A
    shares = rng.normal(0, sigma / A, (draws, 1))
    words = rng.normal(0, sigma, (draws, d)) * np.array([divisors(one, floor) for one in shares])
    over_floor = sigma * d**0.5 / floor
    assert np.median(np.linalg.norm(words, axis=1)) < 0.1 * over_floor
    assert np.linalg.norm(words, axis=1).mean() < 0.25 * over_floor


def test_the_floor_is_four_deviations_of_a_share() -> None:
    assert FLOOR == 4.0
    assert Shares(0.5).floor(sigma=1000, grid_scale=250) == 4 * 1000 / (250 * 0.5)


def test_gradients_of_a_rare_class_count_as_much(pinned: PinnedBase) -> None:
    """After the first round a class's mean gradient is over its own units, above the floor."""
    method = training(optimiser="sgd", learning_rate=1.0, momentum=0.0)
    first = stages_of(method, pinned)[0].method
    assert isinstance(first, CountingClasses)
    start = method.initial_state(pinned)
    known = first.step_from(start, np.array([0.8, 0.15, 0.0]), deviation=0.01)
    np.testing.assert_array_equal(method.released(known), method.released(start))
    mean = np.ones((3, pinned.embedding_width)) * np.array([[0.8], [0.15], [0.02]])
    moved = (method.released(known) - method.released(method.step(known, mean.reshape(-1)))).reshape(3, -1)
    np.testing.assert_allclose(moved[0], 1.0, rtol=1e-4)
    np.testing.assert_allclose(moved[1], 1.0, rtol=1e-4)
    assert (moved[2] == 0).all()  # no share, no step
    # Shares stand in the state until the end.
    np.testing.assert_array_equal(method.step(known, mean.reshape(-1))[-3:], known[-3:])


def test_a_share_scale_is_the_one_with_the_least_error(pinned: PinnedBase) -> None:
    """By d^(-1/4): (a^2 + r^2)(r^2 / a^2 + d) is least there, which is the square of a word's error."""
    unset = with_classes(method_for("dpagg-ti", {"per_class": True}), CLASSES)
    asked = []

    def median(method: Any) -> float:
        asked.append(method)
        return 2.0

    found, said = scaled(unset, pinned, median)
    assert isinstance(found, DPAggTI)
    assert not asked[0].per_class  # r is of one word alone
    d = pinned.embedding_width
    a = found.options.share_scale
    assert a == pytest.approx(2.0 * d**-0.25, rel=0.05)
    assert isinstance(a, float)

    def error(of: float) -> float:
        return (of**2 + 4) * (4 / of**2 + d)

    best = 2.0 * d**-0.25
    assert error(best) < min(error(best * 1.1), error(best / 1.1))
    assert said[0][0] == "auto: share_scale"
    with pytest.raises(MechanismViolation, match="a number in every plan"):
        stages_of(unset, pinned)
    with pytest.raises(StudyError, match="have no length"):
        scaled(unset, pinned, lambda _method: 0.0)


# --- names, prompts, the list ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "tokens"),
    [
        (["No Finding", "pneumonia"], ["<private-no-finding>", "<private-pneumonia>"]),
        (["\u00c9panchement", "b"], ["<private-epanchement>", "<private-b>"]),
        (["a b", "a-b"], ["<private-1>", "<private-2>"]),  # would be one word
        (["\u6b63\u5e38", "\u80ba\u708e"], ["<private-1>", "<private-2>"]),  # would be none
        (["x" * 60, "b"], ["<private-1>", "<private-2>"]),  # would be too long
    ],
)
def test_each_class_has_a_token_of_its_own(names: list[str], tokens: list[str]) -> None:
    assert class_tokens("<private>", names) == tokens


def test_a_long_token_leaves_room_for_numbers() -> None:
    names = [f"{'x' * 50}{number}" for number in range(64)]
    tokens = class_tokens(f"<{'t' * 40}>", names)
    assert len(set(tokens)) == 64
    assert max(map(len, tokens)) <= 42


def test_each_class_has_prompts_of_its_own() -> None:
    found = prompts_by_class(aggregating(), "a {token}, {finding}", "finding", CLASSES)
    assert found["none"] == ("a picture, none", "a <private-none>, none")
    assert list(found) == CLASSES
    plain = method_for("dp-ldm", {})
    assert prompts_by_class(plain, "an x-ray, {finding} {age}", "finding", CLASSES)["mass"] == ("an x-ray, mass",) * 2
    assert prompts_by_class(plain, "an x-ray", "finding", CLASSES) == {"": ("an x-ray", "an x-ray")}
    assert prompts_by_class(plain, "an x-ray", None, []) == {"": ("an x-ray", "an x-ray")}


def test_the_list_comes_from_the_study_alone() -> None:
    """A method without the study's list, or with one that somebody wrote among its options, is refused."""
    with pytest.raises(StudyError, match="a list that you type"):
        with_classes(method_for("dpagg-ti", {"per_class": True}), [])
    with pytest.raises(StudyError, match="leave it out"):
        with_classes(method_for("dpagg-ti", {"per_class": True, "class_names": ["a", "b"]}), ["a", "b"])
    with pytest.raises(StudyError, match=r"without method\.directions"):
        with_classes(method_for("dpsgd-ti", {"per_class": True, "directions": 4}), CLASSES)
    for name in ("dpagg-ti", "dpsgd-ti"):
        plain = method_for(name, {})
        assert isinstance(plain, ClassedMethod)
        assert with_classes(plain, CLASSES) is plain  # classes are for captions then
        check_classes(plain, CLASSES)
    check_classes(aggregating(), CLASSES)
    with pytest.raises(PlanChanged, match="the plan has none"):
        check_classes(method_for("dpagg-ti", {"per_class": True}), [])
    for others in (CLASSES[:2], CLASSES[::-1], []):
        with pytest.raises(PlanChanged, match="other classes"):
            check_classes(aggregating(), others)


# --- the release --------------------------------------------------------------------------------------


def words_of(count: int, width: int) -> dict[str, NDArray[np.float32]]:
    return {f"<private-{number}>": np.full(width, number, dtype=np.float32) for number in range(count)}


def test_a_file_of_words_fits_or_changes_nothing(tiny_base: Path, pinned: PinnedBase) -> None:
    width = pinned.embedding_width
    good = words_of(3, width)
    bad: list[dict[str, NDArray[np.float32]]] = [
        words_of(65, width),
        good | {"<private-9>": np.zeros(width + 1, dtype=np.float32)},
        good | {"picture": np.zeros(width, dtype=np.float32)},
        good | {"<Private>": np.zeros(width, dtype=np.float32)},
    ]
    for tensors in bad:
        plain = load_base(pinned)
        known = len(plain.pipeline.tokenizer)
        with pytest.raises(UnfitWeights):
            attach(plain, {WORDS: tensors})
        assert len(plain.pipeline.tokenizer) == known
    for shapes in ({}, {"<a>": (3,), "<b>": (4,)}, {"<a>": (1, 2, 3)}, {f"<a{n}>": (3,) for n in range(65)}):
        assert WORDS_FILE.layout({WORDS: shapes}) is None


def test_options_of_classes_are_plain_json(pinned: PinnedBase) -> None:
    assert canonical_json(aggregating().options.model_dump(mode="json"))
    assert canonical_json(training().options.model_dump(mode="json"))


def test_several_words_go_through_a_file_and_back(tmp_path: Path, pinned: PinnedBase) -> None:
    method = aggregating(vectors=2)
    w = np.random.default_rng(1).standard_normal(method.dimension(pinned)).astype(np.float32)
    ((file, tensors),) = method.weights(pinned, w).items()
    save_file(dict(tensors), tmp_path / file)
    ((_, read),) = read_weights(tmp_path).items()
    np.testing.assert_array_equal(method.layout(pinned).flatten(dict(read)), w)
