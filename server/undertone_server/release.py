"""The release: the only module that writes weights."""

import io
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from undertone.core.canonical import Json, canonical_json
from undertone.core.durable import read_bytes, sync, write_durable
from undertone.core.failpoints import reached
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation, UnmovedRelease
from undertone.methods.protocol import Method
from undertone.methods.release_format import described_on
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
from undertone.study.planned import class_prompts
from undertone_server.card import model_card
from undertone_server.movement import INVISIBLE, largest_difference
from undertone_server.run_folder import RunFolder

Prompts = Mapping[str, tuple[str, str]]
"""Class -> prompts before and after; "" where a study has no classes."""
SAMPLES, SAMPLE_STEPS, SAMPLE_GUIDANCE = 8, 20, 1.0
# Of more than two classes each has half as many samples; of more than eight, the first eight have any.
FEW_CLASSES, CLASSES_SHOWN = 2, 8
# In RUN/result beside the weights; samples, card and manifest are made anew by each process that comes so far.
_RESULT = ("plan.json", "plan.sig", "ledger.sqlite", "privacy.json")


def release(
    run: RunFolder,
    plan: Plan,
    method: Method,
    state: NDArray[np.float32],
    took_part: TookPart,
) -> Release:
    """Write RUN/release: weights, statement, plan, ledger, samples, card, and a signed manifest of them all.

    The folder appears whole or not at all. What was learned is durable in RUN/result before samples are drawn: where
    they cannot be, the release goes out without them and its card says so. An unfinished result is made anew.

    Raises:
        UnmovedRelease: samples of the same seeds before and after are the same. What would have been released is then
            in RUN/unreleased, without a manifest.
        MechanismViolation: the plan is a rehearsal's, which releases nothing.
    """
    if plan.rehearsal:
        raise MechanismViolation("a rehearsal releases nothing: what it computed comes from drawn images")
    pinned = pin(plan.model.base, plan.model.revision)
    check_pins(pinned, plan.model.files)
    if run.result.exists():
        _clear(run.result, {*method.release_format.files, *_RESULT})
    else:
        _write_result(run, plan, method, pinned, state, took_part)
    prompts = class_prompts(plan, method)
    difference = _samples(pinned, run.result, prompts)
    reached("release/samples durable")
    if difference is not None and difference <= INVISIBLE:
        raise _unreleased(run, plan)
    after = {name: adapted for name, (_, adapted) in prompts.items()}
    described = described_on(method.release_format.describe(), pinned)
    card = model_card(plan, after, took_part.fewest, described, samples=difference is not None)
    write_durable(run.result / "README.md", card.encode())
    reached("release/card durable")
    write_manifest(run.result, run.key())
    reached("release/manifest durable")
    run.result.rename(run.release)
    reached("release/renamed")
    sync(run.folder)
    reached("release/durable")
    return Release(run.release)


def _clear(result: Path, learned: Collection[str]) -> None:
    """Remove what an earlier process added to a result before it died: the manifest would list it."""
    for path in result.iterdir():
        if path.name not in learned:
            path.unlink()
    sync(result)


def _write_result(
    run: RunFolder,
    plan: Plan,
    method: Method,
    pinned: PinnedBase,
    state: NDArray[np.float32],
    took_part: TookPart,
) -> None:
    """RUN/result, whole or not at all: all of a release but samples, card and manifest."""
    part = run.release.with_name("release.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    reached("release/part made")
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
    part.rename(run.result)
    sync(run.folder)
    reached("release/result durable")


def _samples(pinned: PinnedBase, folder: Path, prompts: Prompts) -> int | None:
    """As `_draw_samples`; None where this machine cannot draw, which costs no study its release."""
    try:
        return _draw_samples(pinned, folder, prompts)
    except (ArithmeticError, MemoryError, OSError, RuntimeError) as error:
        (folder / "samples.png").unlink(missing_ok=True)
        reporter().line(
            f"no samples could be drawn ({type(error).__name__}: {error}); the release goes out without them, and "
            "whether the study moved anything that can be seen was not looked at"
        )
        return None


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


def _unreleased(run: RunFolder, plan: Plan) -> UnmovedRelease:
    """Keep what is no release where nobody takes it for one."""
    shutil.rmtree(run.unreleased, ignore_errors=True)
    run.result.rename(run.unreleased)
    sync(run.folder)
    clip = plan.stages[-1].clip_norm
    return UnmovedRelease(
        f"the same seeds give the same samples before and after, to {INVISIBLE}/255: the study moved nothing that can "
        f"be seen, and nothing is released. What there is lies in {run.unreleased}, unsigned; the budget is spent. "
        f'Mostly clip_norm is far from the rows\' lengths (here it is {clip:.4g}; "auto" measures public rows), or '
        "learning rate and rounds are too few"
    )


def _draw_samples(pinned: PinnedBase, part: Path, prompts: Prompts) -> int:
    """samples.png: the same public seeds, before and after, of each class; returns the largest difference, of 255."""
    base = load_base(pinned, choose()[0])
    shown = dict(list(prompts.items())[:CLASSES_SHOWN])
    count = SAMPLES if len(shown) <= FEW_CLASSES else SAMPLES // 2

    def drawn(which: int) -> dict[str, list[Image.Image]]:
        """Prompt -> images of it; classes may share one before."""
        return {
            prompt: base.sample([prompt] * count, list(range(count)), steps=SAMPLE_STEPS, guidance=SAMPLE_GUIDANCE)
            for prompt in dict.fromkeys(pair[which] for pair in shown.values())
        }

    before = drawn(0)
    attach(base, read_weights(part))
    after = drawn(1)
    rows = {f'before: "{prompt}"': images for prompt, images in before.items()}
    rows |= {f'after: "{prompt}"': images for prompt, images in after.items()}
    picture = io.BytesIO()
    image_grid(rows).save(picture, "PNG")
    write_durable(part / "samples.png", picture.getvalue())
    return max(largest_difference(before[one], after[other]) for one, other in shown.values())
