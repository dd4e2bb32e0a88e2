"""A whole release forged under a fresh key: consistent with itself, but for what a test changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.support.world import make_plan
from undertone.core.canonical import canonical_json, sha256_hex
from undertone.core.keys import PLAN_DOMAIN, create_key, public_hex, sign
from undertone.methods.textual_inversion.dpagg_ti import DPAggTIOptions
from undertone.methods.textual_inversion.release import EMBEDS
from undertone.models.layout import Layout
from undertone.privacy.ledger import Ledger
from undertone.release.manifest import write_manifest
from undertone.release.statement import TookPart, privacy_statement
from undertone.study.plan import Plan

WIDTH = 4
TOKEN = "<private>"
WORD = {TOKEN: np.arange(WIDTH, dtype=np.float32)}
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Forgery:
    """What is false in a release. `plan`: {"table.key": value}; `statement`, `files`: changes before all is signed.

    `after` changes the folder once it is signed.
    """

    plan: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=lambda: {EMBEDS: WORD})
    charges: Sequence[tuple[int, int]] = ((1, 1),)
    files: Change = lambda _folder: None
    after: Change = lambda _folder: None


def word_plan(base: Path) -> Plan:
    """A plan of dpagg-ti, whose release is one word of four values."""
    plan = make_plan(base, {"east": 10, "north": 10, "south": 10})
    layout = Layout(((TOKEN, (1, WIDTH)),))
    options = DPAggTIOptions().model_dump(mode="json")
    method = plan.method.model_copy(
        update={"name": "dpagg-ti", "options": options, "dimension": WIDTH, "layout_digest": layout.digest}
    )
    return Plan.model_validate(plan.model_copy(update={"method": method}).model_dump())


def forge(folder: Path, base: Path, forgery: Forgery = Forgery()) -> str:
    """Write the release; returns the public key that signed it."""
    folder.mkdir()
    plan, key = word_plan(base), create_key(folder.with_suffix(".key"))
    spelled = changed_plan(plan, forgery.plan)
    digest = sha256_hex(spelled)
    (folder / "plan.json").write_bytes(spelled)
    (folder / "plan.sig").write_text(sign(key, PLAN_DOMAIN, digest), encoding="ascii")
    for name, tensors in forgery.weights.items():
        (folder / name).write_bytes(save(dict(tensors)))
    event = replace(plan.stage_of(1).event, sigma=forgery.plan.get("privacy.sigma", plan.stage_of(1).event.sigma))  # type: ignore[call-arg]
    with Ledger.create(folder / "ledger.sqlite", {"role": "coordinator", "plan": digest}) as ledger:
        for round_, attempt in forgery.charges:
            ledger.charge(digest, round_, attempt, event, "0" * 64, 1 << 20)
        head = ledger.head
    everyone = TookPart(sorted(plan.cohort.units), {}, len(plan.cohort.units))
    said: Any = privacy_statement(
        plan, setting="simulation", ledger_head=head, charges=len(forgery.charges), took_part=everyone
    )
    said["evidence"]["plan_digest"] = digest
    (folder / "privacy.json").write_bytes(canonical_json(said))
    (folder / "README.md").write_text("a card\n", encoding="utf-8")
    forgery.files(folder)
    write_manifest(folder, key)
    forgery.after(folder)
    return public_hex(key)


def changed_plan(plan: Plan, changes: Mapping[str, Any]) -> bytes:
    """plan.json with values put in that no plan may have, spelled as a plan is."""
    tables: Any = plan.model_dump(mode="json")
    for where, value in changes.items():
        *path, last = where.split(".")
        table = tables
        for part in path:
            table = table[part]
        table[last] = value
    return canonical_json(tables)
