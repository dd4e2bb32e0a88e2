"""What privacy protects, and what a site may be called: words that plans, records and messages share."""

import re
from typing import Annotated, Literal

from pydantic import Field

# PRIVACY 1. `patient` means a patient at a site: ids never leave it.
Unit = Literal["record", "patient", "site"]
SITE_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
SiteName = Annotated[str, Field(pattern=f"^{SITE_NAME}$")]
_SITE_NAME = re.compile(SITE_NAME)


def is_site_name(text: str) -> bool:
    """Whether a site can have this name."""
    return _SITE_NAME.fullmatch(text) is not None
