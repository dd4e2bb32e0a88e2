"""Text from others, as a message, a log or a file may show it: one line, printable, of bounded length."""

MOST = 200
# Why a site is missing: in error messages, on the console and in privacy.json.
REASON = 500
_CUT = "..."


def shown(text: str, most: int = MOST) -> str:
    """One line of bounded length without control characters: text from others adds no lines and no colours.

    Args:
        text: anything; what is not printable becomes a Python escape.
        most: how many characters are kept; where some are left out, three dots follow.
    """
    kept = text[: most + 1]  # the rest is never read
    plain = kept if kept.isprintable() else ascii(kept)[1:-1]
    return plain if len(plain) <= most else f"{plain[:most]}{_CUT}"


def is_shown(text: object, most: int = MOST) -> bool:
    """Whether this is text that `shown` could have made."""
    return isinstance(text, str) and len(text) <= most + len(_CUT) and text.isprintable()
