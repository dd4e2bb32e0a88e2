"""The public state before the first round: the method's own, or one that was trained on what a release draws.

Everything here is post-processing of a release that others have: it reads no private image, and costs nothing
(PRIVACY 25). Seeds are public. What comes out is durable before a site is asked, so a study that was killed goes on
from the same bits.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.durable import read_array, storage_errors, sync, write_array
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation
from undertone.methods.choosing import WarmStarted
from undertone.methods.protocol import Method
from undertone.methods.warm_start import state_at
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.devices import choose
from undertone.models.pinned import PinnedBase
from undertone.release.start import check_start
from undertone.study.plan import Plan
from undertone.study.planned import class_prompts
from undertone.study.start import START_SEED
from undertone_server.run_folder import RunFolder

_AT_ONCE = 32
_DRAWING_STEPS, _GUIDANCE = 25, 1.0


def first_state(run: RunFolder, plan: Plan, method: Method, base: PinnedBase) -> NDArray[np.float32]:
    """The state that the first round begins with; made once for a RUN where the plan has a start.

    Raises:
        UnfitStart: RUN/start is not the release that the plan starts from.
        MechanismViolation: the method starts from its base alone, or what it made is no state of it.
    """
    if plan.start is None:
        return method.initial_state(base)
    kept = kept_start(run)
    if kept is not None:
        return kept
    check_start(plan, run.start)
    if not isinstance(method, WarmStarted):
        raise MechanismViolation(f"{method.name} starts from its base alone")
    pixels, classes = drawn(run, plan, base)
    reporter().line(f"training {plan.start.steps} steps on them, before the first round")
    loaded = load_base(base, choose()[0])
    at_once = range(0, len(pixels), _AT_ONCE)
    latents = np.concatenate([loaded.encode(pixels[first : first + _AT_ONCE]) for first in at_once])
    w = method.warm_start(loaded, latents, classes, plan.start.steps, START_SEED)
    state = state_at(method, base, np.asarray(w, dtype=np.float32))
    keep_start(run, state)
    return state


def keep_start(run: RunFolder, state: NDArray[np.float32]) -> None:
    """Make the first state durable in RUN."""
    place = _place(run)
    with storage_errors(place.parent):
        place.parent.mkdir(exist_ok=True)
    sync(run.checkpoints)
    write_array(place, state)


def kept_start(run: RunFolder) -> NDArray[np.float32] | None:
    """The first state, or None before it is durable, and where a study starts from its base.

    Raises:
        FolderError: it is damaged.
    """
    place = _place(run)
    return read_array(place).astype(np.float32) if place.is_file() else None


def _place(run: RunFolder) -> Path:
    return run.checkpoints / "start" / "state.npy"


def drawn(run: RunFolder, plan: Plan, base: PinnedBase) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images of the release in RUN/start: pixels [n, h, w, 3], and the class of each, [n]; None without classes.

    Classes in equal numbers, but for the first ones, which have what is left over; image i follows from its prompt and
    the public seed i alone. The plan must have a start.
    """
    ancestor, start = plan.ancestor, plan.start
    if ancestor is None or start is None:
        raise MechanismViolation(f"plan {plan.digest[:8]} starts from its base; nothing is drawn for it")
    prompts = {name: after for name, (_, after) in class_prompts(ancestor).items()}
    names = plan.data.classes or list(prompts)
    wanted = [names[index % len(names)] for index in range(start.images)]
    texts = [prompts[name] for name in wanted]
    adapted, images = load_base(base, choose()[0]), []
    attach(adapted, read_weights(run.start))
    with reporter().task(f"drawing from the release of {ancestor.study}", start.images) as progress:
        for first in range(0, start.images, _AT_ONCE):
            part = texts[first : first + _AT_ONCE]
            seeds = [START_SEED + first + index for index in range(len(part))]
            images += adapted.sample(part, seeds, steps=_DRAWING_STEPS, guidance=_GUIDANCE)
            progress(len(part))
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images])
    if not plan.data.classes:
        return pixels, None
    return pixels, np.array([index % len(names) for index in range(start.images)], dtype=np.int64)
