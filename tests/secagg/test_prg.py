"""The mask kernel against keystreams computed in one go, and against words published or computed elsewhere."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from undertone.errors import MechanismViolation
from undertone.secagg import prg, sealing
from undertone.secagg.prg import WordsDigest, add_masks, pack24, unpack24, words_at

KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=4)


def oracle(key: bytes, count: int) -> NDArray[np.uint32]:
    """The first `count` words of PRG(key), block by block: AES of the counter, no mode of operation."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = b"".join(cipher.update(block.to_bytes(16, "big")) for block in range(-(-count // 4)))
    return np.array([int.from_bytes(blocks[4 * k : 4 * k + 4], "little") for k in range(count)], dtype=np.uint32)


def slowly(start: NDArray[np.uint32], plus: list[bytes], minus: list[bytes]) -> NDArray[np.uint32]:
    total = start.astype(object)
    total = total + sum(oracle(k, start.size).astype(object) for k in plus)
    total = total - sum(oracle(k, start.size).astype(object) for k in minus)
    return np.array([int(word) % 2**32 for word in total], dtype=np.uint32)


def keys(count: int, kind: int = 0) -> list[bytes]:
    return [bytes([kind, number]) * 16 for number in range(count)]


def kind_of(value: object) -> str:
    return type(value).__name__


def some_vector(d: int) -> NDArray[np.uint32]:
    return np.random.default_rng(d).integers(0, 2**32, d, dtype=np.uint32)


@pytest.mark.parametrize(
    ("key", "block"),
    [
        # The first block of PRG(key) is AES(key, 0...0): NIST CAVP, KAT_AES, ECBKeySbox256 counts 0 and 1.
        ("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558", "46f2fb342d6f0ab477476fc501242c5f"),
        ("28d46cffa158533194214a91e712fc2b45b518076675affd910edeca5f41ac64", "4bf3b0a69aeb6657794f2901b1440ad4"),
    ],
    ids=["count-0", "count-1"],
)
def test_the_first_words_are_the_published_aes_of_a_zero_block(key: str, block: str) -> None:
    expected = [int.from_bytes(bytes.fromhex(block)[4 * k : 4 * k + 4], "little") for k in range(4)]
    assert words_at(bytes.fromhex(key), 0, 4).tolist() == expected


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 5, 63, 65535, 65536, 2**34 - 2, 2**34, 2**40 + 7])
def test_words_at_an_offset_are_the_cipher_of_their_own_counter(offset: int) -> None:
    key = keys(1)[0]
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    for position, word in enumerate(words_at(key, offset, 9).tolist(), start=offset):
        block = cipher.update((position // 4).to_bytes(16, "big"))
        within = 4 * (position % 4)
        assert word == int.from_bytes(block[within : within + 4], "little")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 500), st.integers(0, 40))
def test_random_access_agrees_with_the_stream(key: bytes, offset: int, count: int) -> None:
    assert words_at(key, offset, count).tolist() == oracle(key, offset + count)[offset:].tolist()


@given(
    d=st.integers(0, 300),
    plus=KEYS,
    minus=KEYS,
    chunk=st.sampled_from([16, 32, 48, 256, 1 << 18]),
)
@settings(deadline=None, max_examples=150)
def test_kernel_agrees_with_the_slow_sum(d: int, plus: list, minus: list, chunk: int) -> None:
    vector = some_vector(d)
    expected = slowly(vector, plus, minus)
    add_masks(vector, plus, minus, chunk_bytes=chunk)
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("d", [65535, 65536, 65537, 200_003])
@pytest.mark.parametrize("chunk", [1 << 14, 3 * 16 * 1009, 1 << 18, 1 << 20])
def test_the_chunk_changes_nothing(d: int, chunk: int) -> None:
    plus, minus = keys(3), keys(2, kind=1)
    vector, expected = some_vector(d), some_vector(d)
    for key in plus:
        expected += words_at(key, 0, d)
    for key in minus:
        expected -= words_at(key, 0, d)
    add_masks(vector, plus, minus, chunk_bytes=chunk)
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("d", [0, 1, 2, 100_001])
def test_what_one_adds_the_other_takes_off(d: int) -> None:
    vector = some_vector(d)
    add_masks(vector, keys(5), [])
    assert d == 0 or not np.array_equal(vector, some_vector(d))
    add_masks(vector, [], keys(5))
    assert np.array_equal(vector, some_vector(d))


def test_masks_of_all_pairs_cancel_in_the_sum() -> None:
    sites, d = 5, 10_007
    pair = {(i, j): bytes([i, j]) * 16 for i in range(sites) for j in range(i + 1, sites)}
    total, plain = np.zeros(d, np.uint32), np.zeros(d, np.uint32)
    for i in range(sites):
        vector = some_vector(d + i)[:d].copy()
        plain += vector
        add_masks(vector, [pair[i, j] for j in range(i + 1, sites)], [pair[j, i] for j in range(i)])
        total += vector
    assert np.array_equal(total, plain)


def test_a_view_is_masked_in_place_and_its_neighbours_are_left_alone() -> None:
    whole = some_vector(1000)
    add_masks(whole[100:900], keys(1), [])
    assert np.array_equal(whole[:100], some_vector(1000)[:100])
    assert np.array_equal(whole[900:], some_vector(1000)[900:])
    assert np.array_equal(whole[100:900], some_vector(1000)[100:900] + oracle(keys(1)[0], 800))


def test_every_bit_of_a_mask_is_used() -> None:
    # A mask of 28 bits, of one sign or of 31 bits would leave a bit that is always the same.
    mask = words_at(bytes(range(32)), 0, 200_000)
    for bit in range(32):
        share = float(np.mean((mask >> np.uint32(bit)) & 1))
        assert abs(share - 0.5) < 5 * 0.5 / 200_000**0.5, bit


@pytest.mark.parametrize("position", range(0, 256, 17))
def test_every_bit_of_a_key_counts(position: int) -> None:
    key = bytes(32)
    other = (1 << position).to_bytes(32, "little")
    assert not np.array_equal(words_at(key, 0, 8), words_at(other, 0, 8))


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (np.zeros(4, np.int32), "uint32"),
        (np.zeros(4, np.uint64), "uint32"),
        (np.zeros(4, ">u4"), "uint32"),
        (np.zeros((2, 2), np.uint32), "uint32"),
        ([0, 0], "uint32"),
        (np.zeros(8, np.uint32)[::2], "contiguous"),
        (np.frombuffer(bytes(16), np.uint32), "written"),
    ],
)
def test_a_vector_that_cannot_be_masked_in_place_is_refused(vector: object, says: str) -> None:
    with pytest.raises(MechanismViolation, match=says):
        add_masks(vector, keys(1), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [bytes(31), bytes(33), b"", bytearray(32), "k" * 32, 7, None], ids=kind_of)
@pytest.mark.parametrize("side", ["plus", "minus"])
def test_a_bad_key_is_refused_before_anything_is_added(bad: object, side: str) -> None:
    vector = some_vector(100)
    listed = {"plus": keys(2), "minus": keys(2, kind=1)}
    listed[side] = [*listed[side], bad]  # type: ignore[list-item]
    with pytest.raises(MechanismViolation, match="32 bytes"):
        add_masks(vector, **listed)
    assert np.array_equal(vector, some_vector(100))


def test_one_key_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(MechanismViolation, match="32 bytes"):
        add_masks(some_vector(4), bytes(32), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"chunk_bytes": 0}, {"chunk_bytes": 100}, {"chunk_bytes": -16}])
def test_an_option_that_makes_no_sense_is_refused(options: dict) -> None:
    with pytest.raises(MechanismViolation, match="positive"):
        add_masks(some_vector(4), keys(1), [], **options)


@pytest.mark.parametrize(("offset", "count"), [(-1, 4), (0, -1)])
def test_words_before_the_first_do_not_exist(offset: int, count: int) -> None:
    with pytest.raises(MechanismViolation, match="do not exist"):
        words_at(bytes(32), offset, count)
    with pytest.raises(MechanismViolation, match="32 bytes"):
        words_at(bytes(16), 0, 4)


@pytest.mark.parametrize("d", [0, 1, 4, 1000, 200_003])
@pytest.mark.parametrize("chunk", [16, 4096, 1 << 18])
def test_finished_sees_each_masked_chunk_once_and_in_order(d: int, chunk: int) -> None:
    d = min(d, 100 * chunk)
    vector, expected = some_vector(d), some_vector(d)
    add_masks(expected, keys(2), keys(1, kind=1))
    seen: list[np.ndarray] = []

    def finished(piece: np.ndarray) -> None:
        seen.append(piece.copy())
        piece &= 0xFF

    add_masks(vector, keys(2), keys(1, kind=1), chunk_bytes=chunk, finished=finished)
    assert np.array_equal(np.concatenate([*seen, np.zeros(0, np.uint32)]), expected)
    assert np.array_equal(vector, expected & 0xFF)
    assert all(len(piece) == chunk // 4 for piece in seen[:-1])


@pytest.mark.parametrize("size", [0, 7, prg._WORDS_WORTH_A_THREAD - 1, prg._WORDS_WORTH_A_THREAD + 5])
def test_a_digest_in_pieces_is_the_digest_of_the_whole(size: int) -> None:
    words = some_vector(size)
    digest = WordsDigest(size)
    for start in range(0, size, 1 << 16):
        digest.update(words[start : start + (1 << 16)])
    assert digest.digest() == sealing.words_digest(words)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60))
def test_24_bits_are_the_three_low_bytes(values: list[int]) -> None:
    words = np.array(values, dtype=np.uint32)
    packed = pack24(words)
    assert packed.tobytes() == b"".join(value.to_bytes(4, "little")[:3] for value in values)
    assert unpack24(packed).tolist() == [value % 2**24 for value in values]
    assert unpack24(packed.tobytes()).tolist() == [value % 2**24 for value in values]


@pytest.mark.parametrize("d", [0, 1, 65535, 65536, 65537, 200_003])
def test_packing_across_blocks(d: int) -> None:
    words = some_vector(d)
    packed = pack24(words)
    assert packed.shape == (3 * d,)
    assert np.array_equal(packed, words.view(np.uint8).reshape(-1, 4)[:, :3].ravel())
    assert np.array_equal(unpack24(packed), words & 0xFFFFFF)
    assert unpack24(packed).dtype == np.uint32


def test_masks_cancel_modulo_24_bits() -> None:
    d, key = 1001, keys(1)
    one, two = some_vector(d), some_vector(d + 1)[:d].copy()
    expected = (one + two) & 0xFFFFFF
    add_masks(one, key, [])
    add_masks(two, [], key)
    assert np.array_equal((unpack24(pack24(one)) + unpack24(pack24(two))) & 0xFFFFFF, expected)


@pytest.mark.parametrize("packed", [bytes(1), bytes(2), bytes(4), np.zeros(5, np.uint8)], ids=kind_of)
def test_a_packed_vector_of_a_wrong_length_is_refused(packed: object) -> None:
    with pytest.raises(MechanismViolation, match="3 bytes"):
        unpack24(packed)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", ["abc", [1, 2, 3], np.zeros(3, np.int8), np.zeros((3, 3), np.uint8), None])
def test_only_bytes_are_unpacked(packed: object) -> None:
    with pytest.raises(MechanismViolation, match="uint8"):
        unpack24(packed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.int64), np.zeros((2, 2), np.uint32), np.zeros(6, np.uint32)[::2], [1]]
)
def test_only_words_are_packed(words: object) -> None:
    with pytest.raises(MechanismViolation, match="vector"):
        pack24(words)  # type: ignore[arg-type]


def test_memory_beyond_the_vector_does_not_grow_with_it() -> None:
    peaks = []
    for d in (1_000_000, 4_000_000):
        vector = np.zeros(d, np.uint32)
        tracemalloc.start()
        add_masks(vector, keys(6), keys(6, kind=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2 * (1 << 18) + 200_000
    # The bound can fail: one keystream of the whole vector is 4 MB.
    assert 2 * (1 << 18) + 200_000 < 4 * 1_000_000


CHILD = """
import resource, numpy as np
from undertone.secagg.prg import WordsDigest, add_masks, words_at
d, keys = 100_000_000, [bytes([k]) * 32 for k in range(4)]
vector = np.zeros(d, np.uint32)
vector += np.uint32(1)  # every page is there before
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
add_masks(vector, keys[:3], keys[3:])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in (0, 1, 49_999_999, 50_000_001, 87_654_321, d - 17):
    mask = [words_at(key, start, 17) for key in keys]
    assert np.array_equal(vector[start : start + 17], 1 + mask[0] + mask[1] + mask[2] - mask[3]), start
add_masks(vector, keys[3:], keys[:3])
assert int(vector.min()) == int(vector.max()) == 1
print(after - before)
"""


@pytest.mark.slow
def test_a_hundred_million_words_take_no_further_memory() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024, "KiB beyond the vector of 400 MB"
