"""Study files for tests: one good study, and changes to it."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOOD: dict[str, dict[str, Any]] = {
    "study": {"name": "chest-x-ray"},
    "model": {"base": "BASE"},
    "method": {"name": "dummy"},
    "privacy": {"unit": "patient", "epsilon": 4.0, "delta": 1e-5, "clip_norm": 1.0, "allow_noisy": True},
    "data": {"unit_column": "patient_id", "caption": "a {token}, {finding}"},
    "cohort": {"min_sites": 2, "units": {"north": 280, "east": 200, "south": 120}},
}


def study_with(changes: Mapping[str, Any] = {}, base: str = "BASE") -> dict[str, dict[str, Any]]:
    """The good study with `{"table.key": value}` put in; the value None takes the key out."""
    tables = copy.deepcopy(GOOD)
    tables["model"]["base"] = base
    for where, value in changes.items():
        table, _, key = where.partition(".")
        if not key:
            tables[table] = value
            if value is None:
                del tables[table]
        elif value is None:
            tables[table].pop(key, None)
        else:
            tables.setdefault(table, {})[key] = value
    return tables


def write_study(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> Path:
    """As TOML; JSON spells all that is needed the same way, tables within tables apart."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        for key, value in table.items():
            inline = isinstance(value, Mapping)
            text = ", ".join(f'"{k}" = {json.dumps(v)}' for k, v in value.items()) if inline else json.dumps(value)
            lines.append(f"{key} = {{ {text} }}" if inline else f"{key} = {text}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
