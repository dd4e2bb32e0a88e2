"""Files that were given as text and are something else: recognised by their first bytes, and named."""

_KINDS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; save the table as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the table as CSV in UTF-8"),
    (b"PAR1", "a Parquet file; save the table as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"{\\rtf", "a formatted document; save it as plain text in UTF-8"),
    (b"\xff\xfe\x00\x00", "UTF-32; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32; save it as UTF-8"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)
# How many bytes are looked at, and the share of NUL bytes among the even or the odd ones that only UTF-16 has.
HEAD = 256
_MANY = 0.6


def other_than_utf8(head: bytes) -> str:
    """What a file is instead of UTF-8 text, and what to do; "" if its first `HEAD` bytes do not tell."""
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    nuls = [half.count(0) / max(len(half), 1) for half in (head[:HEAD:2], head[1:HEAD:2])]
    if len(head) >= 8 and max(nuls) >= _MANY > min(nuls):
        return "UTF-16; save it as UTF-8"
    return ""
