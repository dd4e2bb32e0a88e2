from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestFrame(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: RequestHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[RequestHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ReplyFrame(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ReplyHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[ReplyHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class RequestHeader(_message.Message):
    __slots__ = ("protocol", "kind", "plan", "signature", "round", "attempt", "session", "body", "ledger_heads", "state")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEADS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    kind: str
    plan: bytes
    signature: str
    round: int
    attempt: int
    session: int
    body: bytes
    ledger_heads: _containers.RepeatedCompositeFieldContainer[LedgerHead]
    state: Vector
    def __init__(self, protocol: _Optional[int] = ..., kind: _Optional[str] = ..., plan: _Optional[bytes] = ..., signature: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., session: _Optional[int] = ..., body: _Optional[bytes] = ..., ledger_heads: _Optional[_Iterable[_Union[LedgerHead, _Mapping]]] = ..., state: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...

class LedgerHead(_message.Message):
    __slots__ = ("site", "head")
    SITE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    site: str
    head: str
    def __init__(self, site: _Optional[str] = ..., head: _Optional[str] = ...) -> None: ...

class ReplyHeader(_message.Message):
    __slots__ = ("protocol", "site", "body", "ledger_head", "error", "message", "blamed", "words")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BLAMED_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    site: str
    body: bytes
    ledger_head: str
    error: str
    message: str
    blamed: str
    words: Vector
    def __init__(self, protocol: _Optional[int] = ..., site: _Optional[str] = ..., body: _Optional[bytes] = ..., ledger_head: _Optional[str] = ..., error: _Optional[str] = ..., message: _Optional[str] = ..., blamed: _Optional[str] = ..., words: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("dtype", "shape", "stype", "size")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    STYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    stype: str
    size: int
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., stype: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...
