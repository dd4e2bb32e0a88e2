"""Studies of the gradient methods: small options for each, and the centralised run that a federated one must equal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.images import write_folder
from tests.support.studies import study_with, write_study
from tests.support.world import data_of
from undertone.core.captions import fill_caption
from undertone.data.images import load_image
from undertone.methods.protocol import NoiseAware, UnitRecords
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.privacy.unit_randomness import row_generator, row_key
from undertone.study.plan import Plan
from undertone.study.planned import planned_method, planned_stage
from undertone_client.registration.registered import register
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder
from undertone_server.starting import kept_start

FIVE = ("north", "east", "south", "west", "centre")
_NUMBERS: dict[str, Any] = {"draws": 2, "min_time": 0.0, "optimiser": "adam", "directions": 0}  # nothing is "auto"
SMALL: dict[str, dict[str, Any]] = {
    "dpagg-ti": {"steps": 3, "learning_rate": 0.2},
    "dpsgd-ti": {**_NUMBERS, "records": 2, "learning_rate": 3.0},
    "dp-lora": {**_NUMBERS, "rank": 2, "alpha": 2, "learning_rate": 0.3},
    "dp-ldm": {**_NUMBERS, "blocks": ["mid_block"], "learning_rate": 0.1},
    "dp-prototypes": {"public_drawings": 12, "components": 3, "centres": 2, "radius": 2.0},
    "dpdm": {**_NUMBERS, "learning_rate": 0.1},
    "dp-sad": {"shards": 4, "outputs": 2, "query_steps": 3},
}
CLIP = {"dpagg-ti": 0.1, "dpsgd-ti": 0.02, "dp-lora": 0.1, "dp-ldm": 0.3, "dpdm": 1.0}
# Methods that train a base that is told a class: fixtures of such bases, and what a study says of its images.
TOLD_CLASSES = {"dpdm", "dp-sad"}
CLASSES: dict[str, Any] = {"class_column": "finding", "classes": ["mass", "clear"]}


def gradient_study(
    folder: Path,
    base: Path,
    name: str,
    sites: tuple[str, ...],
    rounds: int,
    *,
    data: Mapping[str, Any] | None = None,
    clip_norm: float | None = None,
    **options: Any,
) -> Path:
    """A study of four images, two patients, at each site, with its data beside it; returns its file.

    `data`: further keys of [data].
    """
    write_folder(folder / "data", 4 * len(sites), 32, sites=sites)
    caption = "a {token}, {finding}" if name.endswith("-ti") else "a picture, {finding}"
    if name in TOLD_CLASSES:
        caption, data = "{finding}", {**CLASSES, **(data or {})}
    changes = {
        "method": {"name": name, **SMALL[name], **options},
        "cohort.units": dict.fromkeys(sites, 2),
        "data.caption": caption,
        "privacy.epsilon": 50.0,
        "privacy.clip_norm": CLIP[name] if clip_norm is None else clip_norm,
        "privacy.rounds": rounds,
        **{f"data.{key}": value for key, value in (data or {}).items()},
    }
    return write_study(folder / "study.toml", study_with(changes, str(base)))


def centralised(run: Path) -> list[NDArray[np.float32]]:
    """The state after each round with all rows in one place and no noise: clip, mean, step; float64 throughout.

    For p = 1 and first attempts: the same rows as the sites', because each unit's randomness follows from its name.
    """
    plan = plan_of(run)
    pinned, base = pin(plan.model.base), load_base(pin(plan.model.base))
    state, states = first_state(run, plan), []
    for round_ in range(1, plan.privacy.rounds + 1):
        units = [unit for site in plan.cohort.units for unit in units_of(run / "sites" / site, plan, base, round_)]
        method, stage = planned_stage(plan, pinned, round_).method, plan.stage_of(round_)
        found = method.rows(base, state[: plan.state_size], units, lambda _steps: None).astype(np.float64)
        factors = np.minimum(1.0, stage.clip_norm * (1 - 2**-10) / np.maximum(np.linalg.norm(found, axis=1), 1e-30))
        mean = (factors[:, None] * found).sum(0) / sum(plan.cohort.units.values())
        sites = tuple(plan.cohort.units)
        deviation = stage.noise_in(len(sites)) / plan.denominator(round_, sites)  # what a step takes off or divides by
        state = method.step_from(state, mean, deviation) if isinstance(method, NoiseAware) else method.step(state, mean)
        states.append(state)
    return states


def units_of(folder: Path, plan: Plan, base: Any, round_: int) -> list[UnitRecords]:
    site, method = SiteDir(folder), planned_method(plan, pin(plan.model.base))
    table, units = register(site, plan, data_of(site)), []
    for unit, positions in table.units().items():
        key = row_key(site.secret(), plan.digest, round_, 1, unit)
        generator = row_generator(key)
        positions = [place for place in positions if plan.data.takes(table.records[place].columns)]
        if not positions:
            continue  # a zero row
        records = [table.records[positions[place]] for place in method.entering(len(positions), generator)]
        latents = base.encode(np.stack([load_image(table.root / record.file, base.image_size) for record in records]))
        captions = tuple(fill_caption(plan.data.caption, method.token, record.columns) for record in records)
        listed = plan.data.classes
        column = plan.data.class_column
        classes = np.array([listed.index(record.columns[column]) for record in records]) if column else None
        units.append(UnitRecords(latents, captions, generator, classes=classes))
    return units


def plan_of(run: Path) -> Plan:
    return Plan.from_bytes((run / "plan.json").read_bytes())


def assert_one_place(run: Path, rounds: tuple[int, ...], tolerance: float) -> None:
    plan, expected = plan_of(run), centralised(run)
    method, start = planned_method(plan, pin(plan.model.base)), begins_at(run)
    for round_ in rounds:
        kept = RunFolder(run).kept_state(round_)
        assert kept is not None
        found, wanted = method.released(kept), method.released(expected[round_ - 1])
        moved = float(np.linalg.norm(wanted - start))
        assert moved > 1e-3
        assert np.linalg.norm(found - wanted) < tolerance * moved


def begins_at(run: Path) -> NDArray[np.float32]:
    """What the study would release without a round."""
    plan = plan_of(run)
    return planned_method(plan, pin(plan.model.base)).released(first_state(run, plan))


def first_state(run: Path, plan: Plan) -> NDArray[np.float32]:
    """The base's, or what the coordinator trained on images of another release."""
    if plan.start is None:
        pinned = pin(plan.model.base)
        return planned_method(plan, pinned).initial_state(pinned)
    state = kept_start(RunFolder(run))
    assert state is not None
    return state
