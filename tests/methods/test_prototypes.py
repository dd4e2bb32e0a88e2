"""dp-prototypes: noisy Lloyd against a plain one, the floor, covariances, the whitening (PRIVACY 16)."""

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.prototypes import PlainLloyd, prototypes_of, some_start, stage_methods, unit_of, unwhitened
from undertone.errors import DirectionsDiffer, MechanismViolation, ModelError, PlanChanged, StudyError
from undertone.methods.classes import FLOOR, ClassShown
from undertone.methods.gradient.directions import same_directions
from undertone.methods.protocol import stages_of
from undertone.methods.prototypes import kept_latents
from undertone.methods.prototypes.method import CENTRES, Centres
from undertone.methods.prototypes.mixture import Prototypes, Sizes, moved, packed, square_root, unpacked, weighed
from undertone.methods.prototypes.public_latents import PublicLatents, public_latents
from undertone.methods.prototypes.rows import bound
from undertone.models.base import load_base
from undertone.models.pinned import PinnedBase, pin

CLASSES = ["pneumonia", "none", "mass"]  # in no order of names


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture
def whitened_away(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A base whose latents are the coordinates z themselves."""
    monkeypatch.setattr(kept_latents, "found", unwhitened)
    return SimpleNamespace(pinned=None)


def quiet(_steps: int) -> None:
    """Nobody watches."""


# --- the oracle ---------------------------------------------------------------------------------------


def test_without_noise_it_is_lloyds_algorithm_to_rounding(whitened_away: Any) -> None:
    """Slow, plain, by lists, with exact denominators: three rounds and the covariances, some residuals cut."""
    method = prototypes_of(CLASSES, lloyd_rounds=3, centres=3, components=2)
    sizes, plain = method.sizes, PlainLloyd(method.radius, 2)
    drawn = np.random.default_rng(5)
    points = [(int(place), drawn.standard_normal(2) * 2 + place) for place in drawn.integers(0, 3, 80)]
    names = sorted(CLASSES)
    units = [unit_of(z[None], [CLASSES.index(names[place])], number) for number, (place, z) in enumerate(points)]
    at = some_start(sizes)
    state, centres = at.vector(), at.centres.astype(np.float32).astype(float).tolist()
    listed = [(place, z.astype(np.float32).astype(float).tolist()) for place, z in points]
    for one in stage_methods(method):
        rows = one.rows(whitened_away, state, units, quiet).astype(np.float64)
        state = one.step_from(state, rows.mean(0), 0.0)
        if isinstance(one, Centres):
            centres = plain.moved(listed, centres)
            np.testing.assert_allclose(Prototypes.of(state, sizes).centres, centres, atol=1e-5)
    found = Prototypes.of(state, sizes)
    for place in range(3):
        factor = found.factors[place]
        np.testing.assert_allclose(factor @ factor, plain.covariance(listed, centres, place), atol=1e-5)
        falls = [plain.nearest(z, centres[place]) for other, z in listed if other == place]
        np.testing.assert_allclose(found.weights[place], np.bincount(falls, minlength=3) / 80, atol=1e-6)
    assert any(np.linalg.norm(np.array(z) - np.array(centres[place]), axis=1).min() > 2.0 for place, z in listed)


def test_a_units_row_is_the_mean_of_its_records(whitened_away: Any) -> None:
    method = prototypes_of(CLASSES)
    z = np.random.default_rng(1).standard_normal((3, 3)) * 3
    state = some_start(method.sizes).vector()
    for one in stage_methods(method)[-2:]:
        together = one.rows(whitened_away, state, [unit_of(z, [0, 2, 0])], quiet)[0]
        alone = one.rows(whitened_away, state, [unit_of(z[j : j + 1], [[0, 2, 0][j]]) for j in range(3)], quiet)
        np.testing.assert_allclose(together, alone.mean(0), atol=1e-6)
        assert together[: method.sizes.slots].sum() == pytest.approx(method.options.count_weight)


def test_the_order_in_which_classes_were_typed_moves_no_row(whitened_away: Any) -> None:
    z = np.random.default_rng(1).standard_normal((4, 3))
    state = some_start(prototypes_of(CLASSES).sizes).vector()
    rows = []
    for order in ([0, 1, 2], [2, 0, 1]):
        method = prototypes_of([CLASSES[place] for place in order])
        units = [unit_of(z[n : n + 1], [order.index(place)], n) for n, place in enumerate((0, 1, 2, 1))]
        rows.append([one.rows(whitened_away, state, units, quiet) for one in stage_methods(method)[-2:]])
    for one, other in zip(*rows, strict=True):
        np.testing.assert_array_equal(one, other)


def test_records_without_a_class_make_no_row(whitened_away: Any) -> None:
    method = prototypes_of(CLASSES)
    for places in ([3], [0, 7]):
        with pytest.raises(MechanismViolation, match="a class of the plan's list"):
            method.rows(
                whitened_away, some_start(method.sizes).vector(), [unit_of(np.zeros((len(places), 3)), places)], quiet
            )
    alone = prototypes_of()
    rows = alone.rows(whitened_away, some_start(alone.sizes).vector(), [unit_of(np.ones((2, 3)), [0, 3])], quiet)
    assert rows.shape == (1, alone.sizes.moment_row)  # classes are nothing where nothing is learned by class


# --- steps --------------------------------------------------------------------------------------------

ONE = Sizes(1, 2, 3)


def centre_mean(counts: list[float], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([counts, residuals.reshape(-1)])


def test_a_centre_moves_by_its_noisy_residuals_over_its_noisy_count() -> None:
    """Whatever a is, and whatever N and C are: those fall out."""
    before, residuals = some_start(ONE), np.array([[0.2, 0.0, -0.1], [0.0, 0.03, 0.0]])
    for weight in (1.0, 4.0):
        mean = centre_mean([0.5 * weight, 0.25 * weight], residuals)
        after = moved(before, mean, 1e-9, weight)
        np.testing.assert_allclose(after.centres[0] - before.centres[0], residuals / [[0.5], [0.25]], atol=1e-9)
        np.testing.assert_array_equal(after.factors, before.factors)


def test_below_the_floor_a_centre_stays_nearly_where_it_was() -> None:
    """F = 4 deviations of a count: a quarter of F moves a quarter as far over F; an empty or negative count nowhere."""
    before, deviation, weight = some_start(Sizes(1, 4, 3)), 0.01, 2.0
    floor = FLOOR * deviation / weight
    residuals = np.full((4, 3), 0.05)
    mean = centre_mean([2 * floor * weight, floor / 4 * weight, 0.0, -floor * weight], residuals)
    step = moved(before, mean, deviation, weight).centres[0] - before.centres[0]
    np.testing.assert_allclose(step[0], 0.05 / (2 * floor))
    np.testing.assert_allclose(step[1], 0.05 / floor / 4)
    assert (step[2:] == 0).all()


def test_no_centre_leaves_the_public_ball() -> None:
    before = some_start(ONE)
    after = moved(before, centre_mean([1e-3, 0.5], np.full((2, 3), 1e3)), 0.0, 1.0)
    lengths = np.linalg.norm(after.centres, axis=2)
    assert lengths.max() == pytest.approx(ONE.farthest)


def test_covariances_of_a_rare_class_go_to_the_pooled_one_and_without_anybody_to_the_start() -> None:
    sizes, radius, weight = Sizes(3, 2, 3), 2.0, 1.0
    before = some_start(sizes)
    truth = np.array([np.diag([1.0, 0.5, 0.2]), np.diag([0.2, 0.5, 1.0]), np.diag([9.0, 9.0, 9.0])])
    counts = np.array([[0.3, 0.2], [0.3, 0.2], [0.0, 0.0]])
    sums = packed(truth) * counts.sum(1, keepdims=True) / radius

    def factors(scale: float, deviation: float) -> NDArray[np.float64]:
        mean = np.concatenate([weight * scale * counts.reshape(-1), scale * sums.reshape(-1)])
        found = weighed(before, mean, deviation, weight, radius).factors
        return np.asarray(found @ found)

    np.testing.assert_allclose(factors(1.0, 0.0)[:2], truth[:2], atol=1e-6)
    pooled = (truth[0] + truth[1]) / 2
    np.testing.assert_allclose(factors(1.0, 1e-4)[2], pooled, atol=1e-2)
    np.testing.assert_allclose(factors(1.0, 1e-4)[0], truth[0], atol=2e-2)
    # The counts of all classes together are noise: nothing is learned.
    np.testing.assert_allclose(factors(1e-6, 1.0), np.tile(0.7 * np.eye(3), (3, 1, 1)), atol=1e-3)


def test_a_class_below_the_floor_has_a_part_of_what_tells_it_from_the_others() -> None:
    """At a quarter of sqrt(J) F a sixteenth, but for the little that shrinkage does beside."""
    sizes, radius, deviation = Sizes(2, 2, 3), 2.0, 0.01
    rare = FLOOR * deviation * sqrt(2) / 4
    counts, truth = np.array([0.8, rare]), np.array([0.5 * np.eye(3), 9.0 * np.eye(3)])
    mean = np.concatenate([np.repeat(counts / 2, 2), (packed(truth) * counts[:, None] / radius).reshape(-1)])
    factor = weighed(some_start(sizes), mean, deviation, 1.0, radius).factors[1]
    pooled = (truth[0] * counts[0] + truth[1] * counts[1]) / counts.sum()
    part = np.diag(factor @ factor - pooled) / np.diag(truth[1] - pooled)
    np.testing.assert_allclose(part, 1 / 16, rtol=0.1)


def test_shrinkage_takes_off_what_noise_adds() -> None:
    """Covariances from noisy moments are nearer to the truth than the moments over their counts, on average."""
    sizes, radius, deviation, drawn = Sizes(2, 1, 6), 3.0, 0.02, np.random.default_rng(2)
    before = some_start(sizes)
    truth = np.array([np.diag(np.linspace(0.5, 0.9, 6)), np.diag(np.linspace(0.9, 0.6, 6))])
    clean = np.concatenate([[0.5, 0.5], (packed(truth) * 0.5 / radius).reshape(-1)])
    ours, plain = [], []
    for _ in range(40):
        mean = clean + deviation * drawn.standard_normal(clean.size)
        found = weighed(before, mean, deviation, 1.0, radius).factors
        sums = radius * mean[2:].reshape(2, -1) / mean[:2, None]
        ours.append(np.square(found @ found - truth).sum())
        plain.append(sum(np.square(unpacked(one, 6) - wanted).sum() for one, wanted in zip(sums, truth, strict=True)))
    assert np.mean(ours) < 0.7 * np.mean(plain)


def test_a_noisy_covariance_that_is_none_still_has_a_root() -> None:
    drawn = np.random.default_rng(3).standard_normal((5, 5))
    noisy = (drawn + drawn.T) / 2
    assert np.linalg.eigvalsh(noisy).min() < 0
    root = square_root(noisy)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    values = np.linalg.eigvalsh(noisy)
    np.testing.assert_allclose(np.linalg.eigvalsh(root @ root), np.maximum(values, 1e-2), atol=1e-9)


def test_weights_are_noisy_counts_and_less_below_the_floor() -> None:
    sizes, deviation = Sizes(2, 2, 3), 0.01
    counts = np.array([0.5, FLOOR * deviation / 4, -0.02, 0.3])
    mean = np.concatenate([counts, np.zeros(2 * sizes.moments)])
    weights = weighed(some_start(sizes), mean, deviation, 1.0, 2.0).weights
    kept = np.array([0.5, FLOOR * deviation / 16, 0.0, 0.3])
    np.testing.assert_allclose(weights.reshape(-1), kept / kept.sum())
    empty = weighed(some_start(sizes), np.zeros_like(mean), deviation, 1.0, 2.0).weights
    np.testing.assert_allclose(empty, 0.25)  # of which an empty class has some


def test_packing_keeps_lengths_and_comes_back() -> None:
    drawn = np.random.default_rng(4).standard_normal((2, 4, 4))
    both = drawn + drawn.transpose(0, 2, 1)
    np.testing.assert_allclose(np.linalg.norm(packed(both), axis=1), np.linalg.norm(both, axis=(1, 2)))
    np.testing.assert_allclose(unpacked(packed(both[0]), 4), both[0])


# --- stages, options, what is sent ----------------------------------------------------------------------


def test_its_stages_have_the_exact_bound_as_c(pinned: PinnedBase) -> None:
    method = prototypes_of(CLASSES, radius=3.0, count_weight=0.5)
    first, last = stages_of(method, pinned)
    assert (first.name, first.rounds, first.share, last.rounds) == (CENTRES, 2, 0.6, 1)
    assert first.clip_norm == last.clip_norm == bound(3.0, 0.5) == sqrt(9.25)
    assert (first.row, last.row) == (3 * 2 * 4, 3 * 2 + 3 * 6)
    assert last.shares is not None
    assert last.shares.scale == pytest.approx(0.5 / sqrt(2))
    assert method.sent(pinned) == method.dimension(pinned) == 3 * (2 * 4 + 9)


def test_nodes_refuse_prototypes_that_no_step_can_have_made(pinned: PinnedBase) -> None:
    method = prototypes_of(CLASSES)
    good = some_start(method.sizes).vector()
    for stage in stages_of(method, pinned):
        stage.check(good)
        for bad in (good[:-1], np.where(np.arange(good.size) == 3, np.nan, good), 100 * good):
            with pytest.raises(PlanChanged, match="the coordinator sent"):
                stage.check(np.asarray(bad, dtype=np.float32))


def test_what_cannot_work_is_refused(pinned: PinnedBase) -> None:
    for options, caption, why in (
        ({}, "a {token}", "learns no word"),
        ({"components": 256, "public_drawings": 999}, "a", ""),
        ({"centres": 12}, "a", "public_drawings = 12"),
    ):
        method = prototypes_of(**options)
        if why:
            with pytest.raises(StudyError, match=why):
                method.check(pinned, caption)
        else:
            method.check(pinned, caption)


def test_a_prompt_is_the_class_and_before_it_what_the_base_knows() -> None:
    method, of = prototypes_of(CLASSES), ClassShown(1, "none", "finding")
    assert method.sample_prompts("an x-ray, {finding}", of) == ("an x-ray, none", "none")
    assert method.sample_prompts("{finding}", of) == ("", "none")
    assert method.sample_prompts("an x-ray {age}") == ("an x-ray", "")
    assert prototypes_of().sample_prompts("{finding}", of) == ("", "")


# --- public latents -------------------------------------------------------------------------------------


def latents_of(count: int, size: int = 12, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.Generator(np.random.Philox(key=seed))
    return (drawn.standard_normal((count, size)) * np.geomspace(5, 0.1, size) + 1).astype(np.float32)


def test_whitened_drawings_have_mean_nought_and_covariance_one() -> None:
    found = public_latents(latents_of(300), latents_of(50, seed=1), 4, 3)
    z = found.whitened(latents_of(300))
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.T @ z / 300, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(found.whitened(found.latents(z[:7])), z[:7], atol=1e-4)
    # Against numpy's own principal components.
    centred = latents_of(300) - latents_of(300).mean(0)
    leading = np.linalg.svd(centred, full_matrices=False)[2][:4]
    np.testing.assert_allclose(leading.T @ leading @ found.back.T, found.back.T, atol=1e-4)
    assert 0.9 < found.kept < 1


def test_rounding_errors_move_them_by_little_and_other_drawings_by_much() -> None:
    drawn, held_out = latents_of(300), latents_of(50, seed=1)
    found = public_latents(drawn, held_out, 4, 3)
    nearly = public_latents(drawn * (1 + 1e-5 * np.sign(latents_of(300, seed=9))), held_out, 4, 3)
    assert same_directions(found.fingerprint(), nearly.fingerprint())
    np.testing.assert_allclose(nearly.into, found.into, atol=1e-3)
    assert not same_directions(
        found.fingerprint(), public_latents(latents_of(300, seed=2), held_out, 4, 3).fingerprint()
    )


def test_latents_that_are_none_or_too_few_are_said() -> None:
    with pytest.raises(StudyError, match="span 5 components"):
        public_latents(latents_of(6), latents_of(3), 6, 2)
    with pytest.raises(ModelError, match="not finite"):
        public_latents(np.full((9, 4), np.nan, np.float32), latents_of(3, 4), 2, 2)


def test_a_plan_says_which_they_are_and_others_are_refused(
    pinned: PinnedBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path))
    kept_latents.forget()
    with pytest.raises(DirectionsDiffer, match="plan anew"):
        prototypes_of().prepare(pinned)
    method, said = prototypes_of(kinds=["letter"]).settled(pinned, "")
    assert "3 of 256 values, from 12 drawings of letter; they keep" in dict(said)["public components"]
    method.prepare(pinned)  # type: ignore[attr-defined]
    kept_latents.forget()
    monkeypatch.setattr(kept_latents, "_make", lambda *_: pytest.fail("they are kept on this machine"))
    method.prepare(pinned)  # type: ignore[attr-defined]
    with pytest.raises(DirectionsDiffer, match="are not those of the plan"):
        prototypes_of(kinds=["letter"], public_check=" ".join(["0.00"] * 16)).prepare(pinned)
    with pytest.raises(StudyError, match="leave it out"):
        prototypes_of(kinds=["letter"], public_check=" ".join(["9.00"] * 16)).settled(pinned, "")


def test_damaged_and_other_entries_are_made_again(
    pinned: PinnedBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path))
    made: list[Any] = []
    make = kept_latents._make
    monkeypatch.setattr(kept_latents, "_make", lambda *arguments: (made.append(arguments), make(*arguments))[1])

    def again(**options: Any) -> None:
        kept_latents.forget()
        prototypes_of(**options).settled(pinned, "")

    again()
    again()
    assert len(made) == 1
    (array,) = (tmp_path / "public-latents").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-40])
    again()
    assert len(made) == 2
    for options in ({"components": 4}, {"centres": 3}, {"public_drawings": 13}, {"kinds": ["letter"]}):
        again(**options)
    assert len(made) == 6
    again(radius=3.0, lloyd_rounds=1)  # what they do not follow from
    assert len(made) == 6


def test_they_are_of_the_kinds_that_were_asked_for(pinned: PinnedBase) -> None:
    from undertone.public_images.procedural import draw

    letters = [draw(5, index, 32, ["letter"]) for index in range(4)]
    base = load_base(pinned)
    found = kept_latents.drawn(base, 5, 4, ["letter"], quiet)
    np.testing.assert_allclose(found, base.encode(np.stack([one.pixels for one in letters])).reshape(4, -1), atol=1e-4)


def test_bits_of_coordinates_follow_from_one_latent(pinned: PinnedBase) -> None:
    found = public_latents(latents_of(300), latents_of(50, seed=1), 4, 3)
    many = latents_of(40, seed=3)
    many[7] = np.inf
    together = found.whitened(many)
    for place in (0, 8, 39):
        np.testing.assert_array_equal(together[place], found.whitened(many[place : place + 1])[0])


def test_public_latents_are_a_plain_value() -> None:
    assert isinstance(public_latents(latents_of(300), latents_of(50), 2, 2), PublicLatents)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    yield
    kept_latents.forget()
