"""Text that others wrote, as a message, a log or a file may show it: one line, printable, not endless."""

MOST = 200
# Why a site is missing: in error messages, on the console and in privacy.json.
REASON = 500
_CUT = "..."


def shown(text: str, most: int = MOST) -> str:
    """One line, no control characters, not endless: what a file or a site says must not write lines or colours.

    Args:
        text: anything; what is not printable becomes a Python escape.
        most: how many characters are kept; where some are left out, three dots follow.
    """
    kept = text[: most + 1]  # the rest is not even looked at
    plain = kept if kept.isprintable() else ascii(kept)[1:-1]
    return plain if len(plain) <= most else f"{plain[:most]}{_CUT}"


def is_shown(text: object, most: int = MOST) -> bool:
    """Whether this is text that `shown` could have made."""
    return isinstance(text, str) and len(text) <= most + len(_CUT) and text.isprintable()
