"""What privacy protects, and what a site may be called: words that plans, records and messages share."""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

# PRIVACY 1. `patient` means a patient at a site: ids never leave it.
Unit = Literal["record", "patient", "site"]
SITE_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
SiteName = Annotated[str, Field(pattern=f"^{SITE_NAME}$")]
_SITE_NAME = re.compile(SITE_NAME)


_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "æ": "ae", "å": "aa", "œ": "oe"})


def is_site_name(text: str) -> bool:
    """Whether a site can have this name."""
    return _SITE_NAME.fullmatch(text) is not None


def name_advice(text: str) -> str:
    """What to write in place of a text that is no name of a site or a coordinator, with one like it if there is one."""
    rule = "use small letters a to z, digits, - and _, at most 63, a letter or digit first"
    spelt = unicodedata.normalize("NFC", text[:200]).lower().translate(_SPELT)
    plain = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()
    like = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:63].rstrip("-_")
    return f"{rule}; for example {like}" if is_site_name(like) else rule
