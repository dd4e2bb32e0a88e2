"""Name -> method: a new method is one folder, and one line here."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from undertone.core.config import parse_options
from undertone.errors import StudyError
from undertone.methods.dpdm.method import DPDM
from undertone.methods.ldm.method import DPLDM
from undertone.methods.lora.selection import SelectingLoRA
from undertone.methods.protocol import Method
from undertone.methods.prototypes.method import DPPrototypes
from undertone.methods.release_format import ReleaseFormat
from undertone.methods.sad.method import DPSAD
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI
from undertone.methods.textual_inversion.dpsgd_ti import DPSGDTI

METHODS: dict[str, type[Method]] = {
    DPAggTI.name: DPAggTI,
    DPSGDTI.name: DPSGDTI,
    SelectingLoRA.name: SelectingLoRA,
    DPLDM.name: DPLDM,
    DPPrototypes.name: DPPrototypes,
    DPDM.name: DPDM,
    DPSAD.name: DPSAD,
}
SUGGESTED = DPSGDTI.name
"""What a study begins with where nobody chose: by auto it moves most subjects (docs/choosing.md)."""


def method_for(name: str, options: Mapping[str, Any]) -> Method:
    """The method of that name with its validated options.

    Args:
        name: as in [method] of a study, or in a plan.
        options: the other keys of that table, as written.

    Raises:
        StudyError: no such method, or a key it does not know.
    """
    method = method_type(name)
    return method(parse_options(method.options_type, dict(options)))


def method_type(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        StudyError: there is none.
    """
    method = METHODS.get(name)
    if method is None:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
        raise StudyError(f'method.name = "{name}" is not known; did you mean "{near}"?')
    return method


def release_formats() -> list[ReleaseFormat]:
    """Every kind of release that a registered method has, each once, in the order of the registry."""
    found: dict[tuple[str, ...], ReleaseFormat] = {}
    for method in METHODS.values():
        for one in method.formats:
            found.setdefault(one.files, one)
    return list(found.values())


def format_of(files: Iterable[str]) -> ReleaseFormat | None:
    """The kind of release that has exactly these files of weights; None: no registered method has."""
    wanted = set(files)
    return next((one for one in release_formats() if set(one.files) == wanted), None)
