"""The sampler: its two paths against each other, its laws against exact ones, OpenDP, the oracle, a wrong sigma."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import opendp.prelude as dp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri

from tests.support.entropy import InsecureTestEntropy, KeyScript
from tests.support.laws import CHANCE, Draws, discrete_p_value, rounded_p_value, two_sample_p_value
from tests.support.rejection import rejection_discrete, rejection_rounded
from tests.support.words import ScriptedWords
from undertone.errors import MechanismViolation
from undertone.privacy import noise
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.keystream import WordStream
from undertone.privacy.noise import (
    add_discrete_gaussian,
    add_rounded_gaussian,
    discrete_gaussian,
    rounded_gaussian,
)
from undertone.privacy.normal_bounds import keep

DRAWS = 1_000_000
TOP = (1 << 64) - 1


# --- the two paths ------------------------------------------------------------------------------------------------


@pytest.fixture
def exact_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, every draw is doubtful: integers decide all of them."""

    def switch() -> None:
        monkeypatch.setattr(noise, "_SMALLEST_P", 1.0)

    return switch


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(m, sigma, magnitude) of each draw that the exact path settled."""
    seen: list[tuple[int, int, int]] = []
    exact = noise._exact_magnitude

    def recorded(m: int, sigma: int, words: WordStream) -> int:
        seen.append((m, sigma, exact(m, sigma, words)))
        return seen[-1][2]

    monkeypatch.setattr(noise, "_exact_magnitude", recorded)
    return seen


@pytest.mark.parametrize("sigma", [64, 1000, 10**5, 10**7, 10**9, 1 << 38])
def test_both_paths_give_the_same_draws_for_the_same_bits(sigma: int, exact_only: Any, settled: list[Any]) -> None:
    size = 10_000
    fast = rounded_gaussian(InsecureTestEntropy(sigma), sigma, size)
    assert len(settled) < (size if sigma == 1 << 38 else 100)
    exact_only()
    assert np.array_equal(rounded_gaussian(InsecureTestEntropy(sigma), sigma, size), fast)
    assert len(settled) >= size


@pytest.mark.parametrize("sigma", [4, 5, 64, 10**6])
def test_both_paths_give_the_same_discrete_draws(
    sigma: int, exact_only: Any, settled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = discrete_gaussian(InsecureTestEntropy(sigma), sigma, 2000)
    exact_only()
    monkeypatch.setattr(noise, "exp", lambda _: 1e200)  # no coin keeps its draw unasked
    asked: list[int] = []
    kept = noise._kept
    monkeypatch.setattr(noise, "_kept", lambda *args: (asked.append(1), kept(*args))[1])
    assert np.array_equal(discrete_gaussian(InsecureTestEntropy(sigma), sigma, 2000), fast)
    assert len(asked) > 1700  # all but the zeros, which are always kept


def quantile_word(magnitude: float, sigma: int, places: int = 0) -> int:
    """The word whose draw lies at `magnitude` / sigma deviations, exactly: m, plus `places` in its last place."""
    with mpmath.workdps(60):
        return int(mpmath.ncdf(-mpmath.mpf(magnitude) / sigma) * 2**64) + places


@pytest.mark.parametrize(("edge", "sigma"), [(0.5, 64), (63.5, 64), (200.5, 64), (2500.5, 1000), (123456.5, 10**5)])
def test_words_on_either_side_of_a_boundary_are_told_apart(edge: float, sigma: int, settled: list[Any]) -> None:
    inner, outer = int(edge - 0.5), int(edge + 0.5)
    words = [quantile_word(edge, sigma, places) for places in (-1, 1)]
    # The other half of the words, m of which are the complement, has the other sign.
    draws = noise._rounded(ScriptedWords([*words, *(TOP - word for word in words)]), 4, sigma)
    assert draws.tolist() == [outer, inner, -outer, -inner]
    assert len(settled) == 4


@pytest.mark.parametrize("sigma", [64, 1000])
def test_a_word_on_a_boundary_is_settled_by_further_words(sigma: int) -> None:
    """The exact edge continues a word's bits: a word below or above that continuation falls to either side."""
    edge = sigma + 0.5
    with mpmath.workdps(80):
        digits = int(mpmath.ncdf(-mpmath.mpf(edge) / sigma) * 2**192)
    first, second, third = digits >> 128, digits >> 64 & TOP, digits & TOP
    for more, expected in (
        ([second - 1], sigma + 1),
        ([second + 1], sigma),
        ([second, third - 1], sigma + 1),
        ([second, third + 1], sigma),
    ):
        script = ScriptedWords([first, *more])
        assert noise._rounded(script, 1, sigma).tolist() == [expected]
        assert script.left == 0


def test_the_smallest_words_reach_beyond_any_cut() -> None:
    # A word of zeros says only that p < 2^-64; a second one sends the draw beyond 13 sigma.
    assert noise._rounded(ScriptedWords([0, 0, 1 << 40]), 1, 64)[0] > 13 * 64
    assert noise._rounded(ScriptedWords([TOP, 0, 1 << 40]), 1, 64)[0] < -13 * 64
    script = ScriptedWords([0, *[0] * 8, 1 << 20])
    assert noise._rounded(script, 1, 64)[0] > 29 * 64
    assert script.left == 0


def test_what_is_not_kept_is_drawn_again_until_something_is() -> None:
    """At sigma = 4, j = 12 is kept with probability 0.977: a coin just above that sends it back, twice here."""
    twelve, two = quantile_word(12, 4), quantile_word(2, 4)
    low, high = (bound / 2**100 for bound in keep(12, 4, 100))
    coin = int((high + 1e-9) * 2**64)
    draws = noise._discrete(ScriptedWords([twelve, coin, twelve << 1, coin, two << 1 | 1, coin]), 1, 4)
    assert draws.tolist() == [-2]
    coin = int((low - 1e-9) * 2**64)
    assert noise._discrete(ScriptedWords([twelve, coin]), 1, 4).tolist() == [12]


@settings(max_examples=300, deadline=None)
@given(m=st.integers(0, (1 << 63) - 1), sigma=st.integers(4, 1 << 38), tail_bits=st.integers(0, 60))
def test_the_exact_path_is_rint_of_the_quantile(m: int, sigma: int, tail_bits: int) -> None:
    """Against mpmath's own erfinv, wherever 64 bits decide."""
    m >>= tail_bits
    with mpmath.workdps(60):
        ends = [mpmath.mpf(m + end) / 2**64 for end in (0, 1)]
        values = [-mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1) * sigma if p else mpmath.inf for p in ends]
        if mpmath.isinf(values[0]):
            return
        nearest = {int(mpmath.nint(value)) for value in values}
    if len(nearest) == 1:
        assert noise._exact_magnitude(m, sigma, ScriptedWords([])) == nearest.pop()


# --- the margin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_floats_err_by_less_than_the_docstring_says(points: int) -> None:
    """The computed z against mpmath: bulk, both branches of ndtri, their seam, and the tail down to 2^-20."""
    rng = np.random.default_rng(1)
    bulk = rng.integers(1 << 44, 1 << 63, points)
    tails = (2.0 ** rng.uniform(44, 63, points)).astype(np.int64)
    seam = np.int64(np.exp(-2) * 2.0**64) + rng.integers(-(1 << 40), 1 << 40, points)
    near_half = (1 << 63) - 1 - (2.0 ** rng.uniform(0, 62, points)).astype(np.int64)
    near_cut = (1 << 44) + (2.0 ** rng.uniform(0, 44, points)).astype(np.int64)
    m = np.concatenate([bulk, tails, seam, near_half, near_cut])
    computed = ndtri((m + 0.5) * 2.0**-64)
    worst = mpmath.mpf(0)
    with mpmath.workdps(50):
        for place, value in zip(m.tolist(), computed.tolist(), strict=True):
            for end in (0, 1):
                exact = mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(place + end) / 2**63 - 1)
                worst = max(worst, abs(exact - mpmath.mpf(value)))
    assert worst < mpmath.mpf(2) ** -46
    assert worst > mpmath.mpf(2) ** -53  # the comparison sees something


def test_a_less_accurate_ndtri_is_found_before_the_first_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    noise.check_quantiles()
    for spoilt in (
        lambda p: ndtri(p) * (1 + 2.0**-45),
        lambda p: ndtri(p) - 2.0**-46,
        lambda p: np.float32(ndtri(p)),
    ):
        noise.check_quantiles.cache_clear()
        monkeypatch.setattr(noise, "ndtri", spoilt)
        with pytest.raises(MechanismViolation, match="ndtri"):
            rounded_gaussian(OsEntropy(), 64, 1)
        monkeypatch.undo()
    noise.check_quantiles.cache_clear()
    noise.check_quantiles()


# --- the laws -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [64, 1000, 3 << 21, 10**9])
def test_draws_have_the_exact_law(sigma: int) -> None:
    draws = rounded_gaussian(OsEntropy(), sigma, DRAWS)
    assert draws.dtype == np.int64
    assert rounded_p_value(draws, sigma) > CHANCE


def test_the_law_survives_when_integers_decide(exact_only: Any) -> None:
    exact_only()
    assert rounded_p_value(rounded_gaussian(OsEntropy(), 64, 30_000), 64) > CHANCE
    assert rounded_p_value(rounded_gaussian(OsEntropy(), 67, 30_000), 64) < CHANCE


@pytest.mark.parametrize("sigma", [4, 7, 64, 10**6])
def test_discrete_draws_have_the_exact_law(sigma: int) -> None:
    draws = discrete_gaussian(OsEntropy(), sigma, 200_000 if sigma == 4 else DRAWS)
    assert discrete_p_value(draws, sigma) > CHANCE


def test_at_sigma_four_the_two_laws_are_told_apart() -> None:
    """Thinning must do something: rounded draws have a variance that is larger by 1/12."""
    rounded = noise._rounded(WordStream(bytes(32), 0), 4 * DRAWS, 4)
    assert discrete_p_value(rounded, 4) < CHANCE
    assert rounded_p_value(rounded, 4) > CHANCE


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_sigma_two_percent_off_is_rejected(factor: float) -> None:
    assert rounded_p_value(rounded_gaussian(OsEntropy(), round(1000 * factor), DRAWS), 1000) < CHANCE
    assert discrete_p_value(discrete_gaussian(OsEntropy(), round(1000 * factor), DRAWS), 1000) < CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [64, 1000, 10**7])
def test_ten_million_draws_have_the_exact_law_and_half_a_percent_is_rejected(sigma: int) -> None:
    for draw, p_value in ((rounded_gaussian, rounded_p_value), (discrete_gaussian, discrete_p_value)):
        draws = draw(OsEntropy(), sigma, 10_000_000)
        assert p_value(draws, sigma) > CHANCE
        z = draws / sigma
        # Skewness 0 and kurtosis 3, with standard errors sqrt(15 / n) and sqrt(96 / n).
        assert abs(np.mean(z**3)) < 5 * np.sqrt(15 / z.size)
        assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / z.size) + 2 / sigma**2
        for factor in (0.995, 1.005):
            assert p_value(draws, sigma * factor) < CHANCE
            if sigma > 64:
                assert p_value(draw(OsEntropy(), round(sigma * factor), 10_000_000), sigma) < CHANCE


@pytest.mark.slow
def test_a_million_discrete_draws_at_sigma_four() -> None:
    assert discrete_p_value(discrete_gaussian(OsEntropy(), 4, 5_000_000), 4) > CHANCE


def test_the_tests_reject_a_shift_and_a_wrong_shape() -> None:
    normal = np.random.default_rng(3).normal
    assert rounded_p_value(np.rint(normal(20, 1000, DRAWS)).astype(np.int64), 1000) < CHANCE
    laplace = np.random.default_rng(3).laplace(0, 1000 / np.sqrt(2), DRAWS)
    assert rounded_p_value(np.rint(laplace).astype(np.int64), 1000) < CHANCE


def test_draws_agree_with_opendp() -> None:
    """OpenDP draws the discrete Gaussian; at sigma = 1000 the rounded one differs in variance by 1/12 in a million."""
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    theirs = np.array(dp.m.make_gaussian(*space, scale=1000.0)([0] * 100_000), dtype=np.int64)
    assert discrete_p_value(theirs, 1000) > CHANCE
    for draw in (rounded_gaussian, discrete_gaussian):
        assert two_sample_p_value(draw(OsEntropy(), 1000, DRAWS), theirs) > CHANCE
        for wrong in (960, 1040):
            assert two_sample_p_value(draw(OsEntropy(), wrong, DRAWS), theirs) < CHANCE


@pytest.mark.parametrize(
    ("draw", "oracle", "sigma"),
    [(rounded_gaussian, rejection_rounded, 64), (discrete_gaussian, rejection_discrete, 5)],
)
def test_draws_agree_with_the_rejection_sampler(
    draw: Callable[..., Draws], oracle: Callable[..., Draws], sigma: int
) -> None:
    slow = oracle(OsEntropy(), sigma, 50_000)
    assert two_sample_p_value(draw(OsEntropy(), sigma, 200_000), slow) > CHANCE


# --- bits, calls and memory ---------------------------------------------------------------------------------------


def test_draws_are_independent_within_and_between_calls() -> None:
    first, second = (rounded_gaussian(OsEntropy(), 64, DRAWS).astype(np.float64) for _ in range(2))
    lag = noise._CHUNK  # one stream's draws against the next one's
    for left, right in (
        (first, second),
        (first[1:], first[:-1]),
        (np.abs(first[1:]), np.abs(first[:-1])),
        (first[lag:], first[:-lag]),
    ):
        correlation = np.corrcoef(left, right)[0, 1]
        assert abs(correlation) * np.sqrt(left.size) < stats.norm.isf(CHANCE / 2)


@pytest.mark.parametrize("draw", [rounded_gaussian, discrete_gaussian])
def test_every_call_asks_for_a_key_of_its_own_and_two_calls_share_no_bits(draw: Callable[..., Draws]) -> None:
    script = KeyScript()
    draws = [draw(script, 1000, 500) for _ in range(3)]
    assert script.asked == [32, 32, 32]
    assert not np.intersect1d(draws[0] * 10**6 + draws[1], draws[1] * 10**6 + draws[2]).size
    assert np.array_equal(draw(KeyScript(), 1000, 500), draws[0])


def test_streams_of_one_key_share_no_block() -> None:
    words = np.concatenate([WordStream(bytes(32), index).take(5000) for index in range(20)])
    assert np.unique(words).size == words.size
    stream = WordStream(bytes(32), 3)
    assert [stream.one(), *stream.take(3).tolist(), stream.one()] == WordStream(bytes(32), 3).take(5).tolist()


def test_words_are_the_ciphers_keystream() -> None:
    # NIST SP 800-38A, F.5.5: the keystream is the ciphertext of AES-256 on the counter blocks.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    blocks = b"".join((7).to_bytes(8, "big") + count.to_bytes(8, "big") for count in range(4))
    expected = np.frombuffer(Cipher(AES(key), ECB()).encryptor().update(blocks), dtype="<u8")
    assert np.array_equal(WordStream(key, 7).take(8), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 5 * noise._CHUNK + 17
    monkeypatch.setattr(noise, "_CHUNKS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(noise.os, "cpu_count", lambda: 1)
    alone = discrete_gaussian(InsecureTestEntropy(4), 100, size)
    monkeypatch.setattr(noise.os, "cpu_count", lambda: threads)
    assert np.array_equal(discrete_gaussian(InsecureTestEntropy(4), 100, size), alone)


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_CHUNKS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(noise.os, "cpu_count", lambda: 2)

    def fails(*_: object) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        noise._add(np.zeros(3 * noise._CHUNK, dtype=np.int64), 64, OsEntropy(), fails)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("add", "draw"), [(add_rounded_gaussian, rounded_gaussian), (add_discrete_gaussian, discrete_gaussian)]
)
def test_noise_is_added_in_place_to_integers_and_in_the_ring(add: Any, draw: Any) -> None:
    size = noise._CHUNK + 100
    start = np.arange(size, dtype=np.int64) - 500
    drawn = draw(InsecureTestEntropy(8), 10**9, size)
    values, ring = start.copy(), (start & 0xFFFFFFFF).astype(np.uint32)
    add(values, 10**9, InsecureTestEntropy(8))
    add(ring, 10**9, InsecureTestEntropy(8))
    assert np.array_equal(values, start + drawn)
    assert np.abs(drawn).max() > 2**31  # the ring wraps
    assert np.array_equal(ring, ((start + drawn) & 0xFFFFFFFF).astype(np.uint32))


def test_memory_does_not_grow_with_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise.os, "cpu_count", lambda: 2)
    peaks = []
    for size in (40 * noise._CHUNK, 160 * noise._CHUNK):
        values = np.zeros(size, dtype=np.int64)
        tracemalloc.start()
        add_discrete_gaussian(values, 1000, OsEntropy())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 4_000_000  # a copy of the vector would be 5 and 21 million


def test_a_seeded_run_repeats() -> None:
    draw: Callable[[], Draws] = lambda: rounded_gaussian(InsecureTestEntropy(5), 64, 50)  # noqa: E731
    assert np.array_equal(draw(), draw())
    source = InsecureTestEntropy(5)
    assert not np.array_equal(rounded_gaussian(source, 64, 50), rounded_gaussian(source, 64, 50))


def test_no_draw_is_legal() -> None:
    for draw in (rounded_gaussian, discrete_gaussian):
        assert draw(OsEntropy(), 64, 0).shape == (0,)


@pytest.mark.parametrize("sigma", [63, 0, -64, True, 64.0, 100.5, (1 << 38) + 1, np.int64(64), None])
def test_a_sigma_without_a_guarantee_is_refused(sigma: Any) -> None:
    values = np.zeros(3, dtype=np.int64)
    with pytest.raises(MechanismViolation, match="sigma"):
        rounded_gaussian(OsEntropy(), sigma, 1)
    with pytest.raises(MechanismViolation, match="sigma"):
        add_rounded_gaussian(values, sigma, OsEntropy())
    if sigma != 63:
        with pytest.raises(MechanismViolation, match="sigma"):
            add_discrete_gaussian(values, sigma, OsEntropy())
    assert not values.any()


def test_shares_begin_at_sigma_four() -> None:
    assert discrete_gaussian(OsEntropy(), 4, 1).shape == (1,)
    with pytest.raises(MechanismViolation, match="between 4"):
        discrete_gaussian(OsEntropy(), 3, 1)
