"""The release: the only module that writes weights."""

import io
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from undertone.core.canonical import Json, canonical_json
from undertone.core.durable import read_bytes, sync, write_durable
from undertone.core.failpoints import reached
from undertone.errors import UnmovedRelease
from undertone.methods.protocol import Method
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.devices import choose
from undertone.models.file_metadata import named_for
from undertone.models.grid import image_grid
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import Release
from undertone.release.manifest import write_manifest
from undertone.release.statement import TookPart, privacy_statement
from undertone.study.plan import Plan
from undertone_server.card import model_card
from undertone_server.movement import INVISIBLE, largest_difference
from undertone_server.run_folder import RunFolder

SAMPLES, SAMPLE_STEPS, SAMPLE_GUIDANCE = 8, 20, 1.0


def release(
    run: RunFolder,
    plan: Plan,
    method: Method,
    state: NDArray[np.float32],
    took_part: TookPart,
) -> Release:
    """Write RUN/release: weights, statement, plan, ledger, samples, card, and a signed manifest of them all.

    The folder appears whole or not at all; an unfinished one from an earlier process is made anew.

    Raises:
        UnmovedRelease: samples of the same seeds before and after are the same. What would have been released is then
            in RUN/unreleased, without a manifest.
    """
    part = run.release.with_name("release.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    reached("release/part made")
    pinned = pin(plan.model.base, plan.model.revision)
    check_pins(pinned, plan.model.files)
    weights = method.weights(pinned, method.released(state))
    for name, tensors in weights.items():
        held = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        write_durable(part / name, named_for(save(held), plan.model.base))
    reached("release/weights durable")
    for name in ("plan.json", "plan.sig"):
        write_durable(part / name, read_bytes(run.folder / name))
    reached("release/plan copied")
    statement = _statement(run, plan, part, took_part)
    write_durable(part / "privacy.json", canonical_json(statement))
    reached("release/statement durable")
    before, after = method.sample_prompts(plan.data.caption)
    difference = _draw_samples(pinned, part, before, after)
    reached("release/samples durable")
    if difference <= INVISIBLE:
        raise _unreleased(run, plan, part)
    card = model_card(plan, after, took_part.fewest, method.release_format.describe())
    write_durable(part / "README.md", card.encode())
    reached("release/card durable")
    write_manifest(part, run.key())
    reached("release/manifest durable")
    part.rename(run.release)
    reached("release/renamed")
    sync(run.folder)
    reached("release/durable")
    return Release(run.release)


def _statement(run: RunFolder, plan: Plan, part: Path, took_part: TookPart) -> dict[str, Json]:
    with Ledger.open(run.ledger) as ledger:
        ledger.copy_to(part / "ledger.sqlite")
        sync(part / "ledger.sqlite")  # SQLite need not flush a copy
        reached("release/ledger copied")
        return privacy_statement(
            plan,
            setting=run.facts()["setting"],
            ledger_head=ledger.head,
            charges=len(ledger.charges(plan.digest)),
            took_part=took_part,
        )


def _unreleased(run: RunFolder, plan: Plan, part: Path) -> UnmovedRelease:
    """Keep what is no release where nobody takes it for one."""
    shutil.rmtree(run.unreleased, ignore_errors=True)
    part.rename(run.unreleased)
    sync(run.folder)
    clip = plan.grid.clip_units / plan.grid.scale
    return UnmovedRelease(
        f"the same seeds give the same samples before and after, to {INVISIBLE}/255: the study moved nothing that can "
        f"be seen, and nothing is released. What there is lies in {run.unreleased}, unsigned; the budget is spent. "
        f'Mostly clip_norm is far from the rows\' lengths (here it is {clip:.4g}; "auto" measures public rows), or '
        "learning rate and rounds are too few"
    )


def _draw_samples(pinned: PinnedBase, part: Path, before: str, after: str) -> int:
    """samples.png: the same public seeds, before and after; returns the largest difference, of 255."""
    base = load_base(pinned, choose()[0])
    seeds, rows, drawn = list(range(SAMPLES)), {}, []
    for label, prompt in (("before", before), ("after", after)):
        if label == "after":
            attach(base, read_weights(part))
        images = base.sample([prompt] * SAMPLES, seeds, steps=SAMPLE_STEPS, guidance=SAMPLE_GUIDANCE)
        rows[f'{label}: "{prompt}"'] = images
        drawn.append(images)
    picture = io.BytesIO()
    image_grid(rows).save(picture, "PNG")
    write_durable(part / "samples.png", picture.getvalue())
    return largest_difference(*drawn)
