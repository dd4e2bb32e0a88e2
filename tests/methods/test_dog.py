"""DoG against the paper's formulas, and what its steps follow from: directions of noised means, and nothing else."""

import numpy as np
import pytest

from undertone.errors import StudyError
from undertone.methods.gradient.dog import DistanceOverGradients
from undertone.methods.gradient.optimisers import OptimiserOptions, server_optimiser
from undertone.methods.registry import method_for

D, FIRST = 64, 0.25
ROUNDS = 12


def means(seed: int, rounds: int = ROUNDS) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((rounds, D))


def after(gradients: np.ndarray, first_step: float = FIRST) -> np.ndarray:
    server = DistanceOverGradients(first_step)
    kept = server.start(np.ones(D, dtype=np.float32))
    for gradient in gradients:
        kept = server.advance(kept, gradient)
    return kept


def distance(kept: np.ndarray) -> float:
    return float(np.linalg.norm(kept[:D] - 1))


def test_steps_and_average_are_the_papers() -> None:
    """Ivgi, Hinder and Carmon 2023: eta_t with r_epsilon, and polynomial-decay averaging with gamma = 8."""
    server, w, average, squares, farthest = DistanceOverGradients(FIRST), np.ones(D), np.ones(D), 0.0, FIRST
    kept = server.start(np.ones(D, dtype=np.float32))
    for t, gradient in enumerate(means(1), start=1):
        kept = server.advance(kept, gradient)
        squares += float(np.sum(gradient**2))
        w = w - farthest / np.sqrt(squares) * gradient
        farthest = max(farthest, float(np.linalg.norm(w - np.ones(D))))
        average = (1 - 9 / (t + 8)) * average + 9 / (t + 8) * w
        np.testing.assert_allclose(kept[:D], w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(server.released(kept), average, rtol=1e-5, atol=1e-6)
    assert kept.size == server.vectors * D + server.scalars


def test_the_first_step_is_as_long_as_the_study_says() -> None:
    for length in (0.1, 3.0):
        assert distance(after(means(2, 1), length)) == pytest.approx(length, rel=1e-5)


def test_how_long_gradients_are_is_in_no_step() -> None:
    np.testing.assert_allclose(after(1e-4 * means(3))[:D], after(1e3 * means(3))[:D], rtol=1e-4)


def test_steps_grow_while_means_point_one_way_and_hardly_by_noise() -> None:
    """Aligned means: |w_t - w_0| (1 + 1 / sqrt(t + 1)) each round. Noise alone: the root of t, or a little more."""
    expected = FIRST
    for t in range(2, ROUNDS + 1):
        expected *= 1 + 1 / np.sqrt(t)
    assert distance(after(np.ones((ROUNDS, D)))) == pytest.approx(expected, rel=1e-4)
    by_noise = [distance(after(means(seed))) for seed in range(20)]
    assert np.mean(by_noise) < 1.3 * FIRST * np.sqrt(ROUNDS)
    assert expected > 10 * np.mean(by_noise)


def test_means_that_turn_back_stop_it() -> None:
    """The gradient of a bowl whose middle is five first steps away: the average ends within one of them."""
    server, target = DistanceOverGradients(FIRST), 1 + 5 * FIRST * np.ones(D) / np.sqrt(D)
    kept = server.start(np.ones(D, dtype=np.float32))
    for _ in range(40):
        kept = server.advance(kept, kept[:D] - target)
    assert np.linalg.norm(server.released(kept) - target) < FIRST


def test_means_of_zeros_move_nothing() -> None:
    np.testing.assert_array_equal(after(np.zeros((3, D)))[:D], np.ones(D))


def test_what_does_not_go_with_it_is_named() -> None:
    assert isinstance(server_optimiser(OptimiserOptions(optimiser="dog")), DistanceOverGradients)
    for key, value in (("warm_up", 3), ("ema", 0.5)):
        with pytest.raises(StudyError, match=f'{key}.*"dog"'):
            method_for("dp-lora", {"optimiser": "dog", key: value})
