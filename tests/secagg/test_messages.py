"""One spelling for each message: what decodes encodes again to the same bytes, and nothing else decodes."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.errors import ProtocolError
from undertone.secagg.encoding import index_list, tagged
from undertone.secagg.messages import (
    AdvertisedKeys,
    AdvertisedKeysList,
    ConsistencyLists,
    ConsistencySignature,
    ConsistencySignatures,
    MaskedInputProof,
    SealedShares,
    ShareInbox,
    UnmaskingShares,
)

CONTEXT = bytes(range(32))
ROSTER = 6


def filled(size, start=0):
    return bytes((start + k) % 256 for k in range(size))


KEYS = tuple(AdvertisedKeys.of(index, filled(160, index)) for index in (0, 2, 5))
BOXES = tuple((index, filled(82, index)) for index in (1, 3))
MESSAGES = {
    "advertised keys": KEYS[1],
    "list of advertised keys": AdvertisedKeysList(KEYS),
    "sealed shares": SealedShares(0, filled(32), BOXES, filled(64)),
    "share inbox": ShareInbox(2, BOXES),
    "masked input proof": MaskedInputProof(5, filled(32), filled(64)),
    "consistency lists": ConsistencyLists((0, 1, 3, 5), (1, 3)),
    "consistency signature": ConsistencySignature(4, filled(64)),
    "consistency signatures": ConsistencySignatures(((0, filled(64)), (1, filled(64, 1)))),
    "unmasking shares": UnmaskingShares(3, tuple((index, filled(33, index)) for index in (0, 3)), filled(64)),
}


@pytest.fixture(params=MESSAGES)
def message(request):
    return MESSAGES[request.param]


def read(message, data, context=CONTEXT, roster=ROSTER):
    return type(message).from_bytes(data, context, roster)


def test_round_trip(message):
    data = message.to_bytes(CONTEXT)
    assert read(message, data) == message
    assert data[:2] == bytes((1, message.KIND))
    assert data[2:34] == CONTEXT


def test_kinds_differ():
    assert sorted(message.KIND for message in MESSAGES.values()) == list(range(1, 10))


def test_every_prefix_and_every_continuation_is_refused(message):
    data = message.to_bytes(CONTEXT)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            read(message, data[:end])
    for more in (b"\0", b"\0" * 64, data):
        with pytest.raises(ProtocolError):
            read(message, data + more)


def test_another_version_kind_or_session_is_refused(message):
    data = message.to_bytes(CONTEXT)
    with pytest.raises(ProtocolError, match="version 2"):
        read(message, b"\2" + data[1:])
    for other in MESSAGES.values():
        if other is not message:
            with pytest.raises(ProtocolError, match="kind"):
                read(other, data)
    with pytest.raises(ProtocolError, match="another session"):
        read(message, data, context=bytes(32))


def test_an_index_beyond_the_roster_is_refused(message):
    with pytest.raises(ProtocolError):
        read(message, message.to_bytes(CONTEXT), roster=1 if message.KIND != 3 else 0)


@pytest.mark.parametrize("indices", [(1, 1), (3, 1), (0, 1, 1, 2), (5, 6), (0, 65535)])
def test_lists_that_are_not_strictly_increasing_are_refused(indices):
    for data in (
        ConsistencyLists(indices, (1,)),
        ConsistencyLists((1,), indices),
        ShareInbox(2, tuple((index, filled(82)) for index in indices)),
        AdvertisedKeysList(tuple(AdvertisedKeys.of(index, filled(160)) for index in indices)),
        SealedShares(0, filled(32), tuple((index, filled(82)) for index in indices), filled(64)),
        ConsistencySignatures(tuple((index, filled(64)) for index in indices)),
        UnmaskingShares(0, tuple((index, filled(33)) for index in indices), filled(64)),
    ):
        with pytest.raises(ProtocolError, match="twice, or out of order"):
            read(data, data.to_bytes(CONTEXT))


def test_a_count_that_promises_much_takes_no_memory():
    tracemalloc.start()
    for message in MESSAGES.values():
        data = message.to_bytes(CONTEXT)
        for at in range(34, len(data) - 1):
            try:
                read(message, data[:at] + b"\xff\xff" + data[at + 2 :])
            except ProtocolError:
                continue
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("data", [None, "text", 3, bytearray(200), memoryview(bytes(200))])
def test_what_is_not_bytes_is_refused(message, data):
    with pytest.raises(ProtocolError):
        read(message, data)


@given(data=st.binary(max_size=400), kind=st.sampled_from(sorted(MESSAGES)))
def test_whatever_decodes_is_spelt_as_it_came(data, kind):
    message = MESSAGES[kind]
    framed = bytes((1, message.KIND)) + CONTEXT + data
    try:
        decoded = read(message, framed)
    except ProtocolError:
        return
    assert decoded.to_bytes(CONTEXT) == framed


def test_the_length_prefix_keeps_fields_apart():
    assert tagged("a", b"bc", b"d") != tagged("a", b"b", b"cd") != tagged("ab", b"c", b"d")
    assert tagged("a", b"", b"b") != tagged("a", b"b", b"") != tagged("a", b"b")
    assert index_list((1, 2)) == b"\0\2\0\1\0\2"


def test_shares_are_not_printed():
    assert "shares=" not in repr(MESSAGES["unmasking shares"])
