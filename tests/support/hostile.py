"""Five sites in memory behind a grid, one of which may send anything; and what it may send.

The coordinator is the real one, from `Sites` to `ServerSession`. The sites run the real state machine of secure
aggregation on vectors of their own, without disk, data or rows.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tests.support.entropy import InsecureTestEntropy
from tests.support.secagg import KeptLists
from undertone import PROTOCOL
from undertone.core.federation import Federation
from undertone.errors import UndertoneError
from undertone.privacy.quantise import to_ring
from undertone.secagg.node import advertise_keys
from undertone.secagg.parameters import Parameters
from undertone.secagg.prg import pack24
from undertone.wire.flower import MESSAGE_TYPES, reply_to_records, request_from_records
from undertone.wire.hello import prove
from undertone.wire.messages import YES, Kind, Reply, Request

KINDS: dict[str, Kind] = {name: kind for kind, name in MESSAGE_TYPES.items()}
FIRST = SUPERLINK_NODE_ID + 1


@dataclass
class MemorySite:
    """An honest site: its key, its vector, its session."""

    name: str
    identity: Any
    federation: Federation
    values: NDArray[np.int64]
    seed: int
    state: Any = None
    wire_bits: int = 32
    sessions: int = 0

    def answer(self, request: Request) -> Reply:
        if request.kind == "hello":
            return Reply(self.name, PROTOCOL, body=prove(self.identity, self.name, request.body))
        good = Reply(self.name, PROTOCOL, ledger_head=f"{self.seed:032x}{self.sessions:032x}")
        if request.kind == "prepare":
            self.sessions += 1
            entropy = InsecureTestEntropy(1000 * self.sessions + self.seed)
            params = Parameters.from_bytes(request.body)
            self.wire_bits = params.wire_bits
            self.state, body = advertise_keys(params, self.name, self.identity, self.federation, entropy)
            return replace(good, body=body)
        if request.kind == "ready":
            return replace(good, body=YES)
        if request.kind == "masked_input":
            self.state, words, proof = self.state.masked_input(request.body, to_ring(self.values))
            return replace(good, body=proof, words=pack24(words) if self.wire_bits == 24 else words)
        if request.kind == "consistency_check":
            self.state, body = self.state.consistency_check(request.body, KeptLists())
        else:
            self.state, body = getattr(
                self.state, {"share_keys": "share_keys", "unmasking": "unmasking"}[request.kind]
            )(request.body)
        return replace(good, body=body)


# What a hostile node does with the honest records: other records, a message, or an exception of Flower's.
Change = Callable[[Message, RecordDict], RecordDict | Message | Exception | None]


@dataclass
class HostileGrid:
    """Flower's grid to `sites`; what `changes` holds for a node is applied to each of its replies."""

    sites: dict[int, MemorySite]
    changes: dict[int, Change] = field(default_factory=dict)
    asked: list[tuple[int, str]] = field(default_factory=list)
    _sent: dict[str, Message] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            identifier = f"m{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = identifier
            self.asked.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._sent[identifier] = message
            yield identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for identifier in message_ids:
            if identifier in self._sent:
                yield from self._replies(self._sent.pop(identifier))

    def _replies(self, message: Message) -> Iterator[Message]:
        node = message.metadata.dst_node_id
        request = request_from_records(KINDS[message.metadata.message_type], message.content)
        try:
            records = reply_to_records(self.sites[node].answer(request))
        except (AttributeError, UndertoneError):
            # Its session was cut short in an earlier step; a node refuses in words.
            records = reply_to_records(Reply(self.sites[node].name, PROTOCOL, error="ReplayedAttempt", message="over"))
        changed = self.changes[node](message, records) if node in self.changes else records
        if isinstance(changed, Exception):
            raise changed
        if isinstance(changed, Message):
            yield changed
        elif changed is not None:
            yield Message(changed, reply_to=message)


# --- hostile replies ------------------------------------------------------------------------------

TEXTS = (
    "",
    "b",
    "site-000",
    "north\n",
    "../../../x",
    "é" * 3,
    "\x1b]0;owned\x07\x1b[2J[bold]",
    "a\r\nround 1: all present",
    "0f" * 32,
    "0F" * 32,
    "x" * 100_000,
    "\u202e\u2028\x00",
    "NotApproved",
    "SiteFault",
    "UnfaithfulSite",
)
SHAPES = ("(10000000000000,)", f"({10**30},)", "(-5,)", "(2, 2)", "()", "(7,)", "(8,)", "(0,)")


class Hostility:
    """Draws what the hostile site sends in the place of an honest reply, from a seed.

    `earlier` is every honest reply of any site and session so far, which it may send again.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.earlier: list[RecordDict] = []
        self.names: list[str] = []

    def change(self, message: Message, records: RecordDict) -> RecordDict | Message | Exception | None:
        """One hostile reply."""
        self.earlier = [*self.earlier[-40:], records]
        kinds = [self.bits, self.bits, self.fields, self.fields, self.body, self.body, self.vector, self.replay]
        return self.random.choice([*kinds, self.refusal, self.flower])(message, records)

    def bits(self, _message: Message, records: RecordDict) -> RecordDict | Exception:
        """Bytes of the wire format flipped, cut out, repeated or drawn at random."""
        proto = recorddict_to_proto(records)
        data = self.mutated(proto.SerializeToString())
        try:
            return recorddict_from_proto(type(proto).FromString(data))
        except (DecodeError, AttributeError, ValueError, TypeError, KeyError) as error:
            return error  # Flower's grid says so in the coordinator's process

    def fields(self, _message: Message, records: RecordDict) -> RecordDict:
        """A field with another value or type, one too many, one too few."""
        header: dict[str, Any] = dict(records["header"])  # type: ignore[arg-type]
        name = self.random.choice([*header, "extra", self.text()])
        values = [self.text(), self.random.randbytes(40), bytes(300_000), 1.5, True, -1, 2**63 - 1, [1], [], ["a"]]
        value = self.random.choice([None, *values])
        if value is None:
            header.pop(name, None)
        else:
            header[name] = value
        return self.with_header(records, header)

    def body(self, _message: Message, records: RecordDict) -> RecordDict:
        """The site's message of secure aggregation, changed."""
        header: dict[str, Any] = dict(records["header"])  # type: ignore[arg-type]
        header["body"] = self.mutated(header["body"])
        return self.with_header(records, header)

    def vector(self, _message: Message, records: RecordDict) -> RecordDict:
        """A vector that is none: its header, its description or its bytes lie."""
        made = np.arange(14, dtype=self.random.choice(["u4", "u1", "f4", "i8"]))
        good = records["words"]["y"] if "words" in records else Array(made)  # type: ignore[index]
        data, shape, dtype, stype = good.data, good.shape, good.dtype, good.stype
        match self.random.randrange(6):
            case 0:
                data = self.mutated(data)
            case 1:
                text = f"{{'descr': '<u4', 'fortran_order': False, 'shape': {self.random.choice(SHAPES)}, }}"
                data = b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n" + data[128:]
            case 2:
                shape = self.random.choice([(), (2, 2), (2**31 - 1,), (0,)])
            case 3:
                dtype, stype = self.text(), self.random.choice(["numpy.ndarray", "pickle", self.text()])
            case 4:
                data = self.random.choice([b"", b"PK\x03\x04", data[:-1], data + b"\0", bytes(100_000)])
            case _:
                values = np.frombuffer(data[128:], dtype=np.uint8).copy()
                if values.size:
                    values[self.random.randrange(values.size)] ^= 1
                data = data[:128] + values.tobytes()
        array = Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data)
        name, keys = self.random.choice([("words", ["y"]), ("words", ["y"]), ("words", ["y", "z"]), ("state", ["y"])])
        made_records = self.with_header(records, dict(records["header"]))  # type: ignore[arg-type]
        made_records[name] = ArrayRecord(dict.fromkeys(keys, array))
        return made_records

    def replay(self, _message: Message, records: RecordDict) -> RecordDict:
        """An earlier reply, of whatever kind, session and site; perhaps under this one's ledger head or name."""
        old = self.random.choice(self.earlier)
        if self.random.random() < 0.5:
            return old
        header: dict[str, Any] = dict(old["header"])  # type: ignore[arg-type]
        mine: Any = records["header"]
        return self.with_header(old, header | {"site": mine["site"], "ledger_head": mine["ledger_head"]})

    def refusal(self, _message: Message, records: RecordDict) -> RecordDict:
        """A refusal in any words and names, that blames anybody."""
        mine: Any = records["header"]
        site = self.random.choice([mine["site"], "", *self.names])
        blamed = self.random.choice(["", *self.names, self.text()])
        error, message = self.text() or "NotApproved", self.text()
        header = dict(mine) | {"site": site, "error": error, "message": message, "blamed": blamed}
        header |= {"ledger_head": "", "body": b""} if self.random.random() < 0.8 else {}
        return RecordDict({"header": ConfigRecord(header)})

    def flower(self, message: Message, records: RecordDict) -> Message | Exception | None:
        """Nothing, Flower's own error, another sender, or bytes that Flower cannot unpack."""
        match self.random.randrange(5):
            case 0:
                return None
            case 1:
                return Message(Error(code=2, reason=self.text()), reply_to=message)
            case 2:
                forged = Message(records, reply_to=message)
                forged.metadata.__dict__["_src_node_id"] = FIRST
                return forged
            case 3:
                return UnexpectedObjectContentError("object", "is none")
            case _:
                return self.random.choice(
                    [KeyError("x"), ValueError("x"), AttributeError("x"), IndexError(), OverflowError()]
                )

    def text(self) -> str:
        if self.random.random() < 0.3:
            return "".join(
                chr(self.random.choice((self.random.randrange(0x20), self.random.randrange(0xD800)))) for _ in range(9)
            )
        return self.random.choice([*TEXTS, *self.names])

    def mutated(self, data: bytes) -> bytes:
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            at, to = sorted(self.random.randrange(len(data) + 1) for _ in range(2))
            match self.random.randrange(6):
                case 0 if at < len(data):
                    data = data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
                case 1:
                    data = data[:at] + data[to:]
                case 2:
                    data = data[:to] + data[at:]
                case 3:
                    data = data[:at] + self.random.randbytes(self.random.choice((1, 4, 33, 64))) + data[at:]
                case 4:
                    data = data[:at] + self.random.randbytes(to - at) + data[to:]
                case _:
                    data = self.random.randbytes(self.random.choice((0, 1, len(data), 2 * len(data) + 1, 5000)))
        return data

    @staticmethod
    def with_header(records: RecordDict, header: dict[str, Any]) -> RecordDict:
        return RecordDict({"header": ConfigRecord(header)} | {k: v for k, v in records.items() if k != "header"})
