"""A study played in one process without sites or privacy: a plan's clip and noise, float sums, public images.

Fewer units than the plan's may be played: the noise in a mean stays that of the plan's own number. Coins and noise come
from a seed, so a setting is held against another with the same ones. Never for private images: nothing here is private.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.evaluation.encoder import kinds_of
from undertone.evaluation.kid import PublicFeatures, kid
from undertone.methods.protocol import Method, NoiseAware, ShardedMethod, SummingMethod, UnitRecords
from undertone.methods.weights import attach
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase
from undertone.study.plan import Plan
from undertone.study.planned import planned_method, planned_stage

_AT_ONCE = {"dpagg-ti": 60}
_UNITS_AT_ONCE = 20
_ENCODED, _PLAYED = 200, 500  # images, and units of small models, at a time


@dataclass(frozen=True)
class Played:
    """What a study released, and the lengths of its rows and sums, round by round."""

    w: NDArray[np.float32]
    moved: float
    rows: list[float]
    signal: list[float]


def units_of(latents: NDArray[np.float32], caption: str, seed: int) -> list[UnitRecords]:
    """Each image its own unit."""
    return [
        UnitRecords(latents[i : i + 1], (caption,), np.random.Generator(np.random.Philox(key=seed * 100_000 + i)))
        for i in range(len(latents))
    ]


def play(
    base: LoadedBase, method: Method, plan: Plan, latents: NDArray[np.float32], seed: int, *, noisy: bool = True
) -> Played:
    """All rounds of a plan on public latents [n, c, h, w] that stand for its units."""
    caption = plan.data.caption.replace("{token}", method.token)
    units, privacy = units_of(latents, caption, seed), plan.privacy
    clip, p = plan.grid.clip_units / plan.grid.scale, privacy.sampling_rate
    deviation = privacy.sigma / plan.denominator(privacy.rounds, tuple(plan.cohort.units))
    drawn = np.random.Generator(np.random.Philox(key=seed))
    state = method.initial_state(base.pinned)
    start, d = method.released(state), plan.method.dimension
    lengths, signals = [], []
    for _ in range(privacy.rounds):
        sampled = [unit for unit, coin in zip(units, drawn.random(len(units)), strict=True) if coin < p]
        total, norms = clipped(base, method, state, sampled, clip, d)
        mean = total / (p * len(units))
        lengths.append(float(np.median(norms)) if norms else 0.0)
        signals.append(float(np.linalg.norm(mean)))
        noise = drawn.normal(0, deviation, d)
        state = method.step(state, mean + noise if noisy else mean)
    w = method.released(state)
    return Played(w, float(np.linalg.norm(w.astype(np.float64) - start)), lengths, signals)


def clipped(
    base: LoadedBase, method: Method, state: NDArray[np.float32], units: Sequence[UnitRecords], clip: float, d: int
) -> tuple[NDArray[np.float64], list[float]]:
    """The sum of clipped rows [d], and the rows' lengths."""
    total, norms = np.zeros(d), []
    at_once = _AT_ONCE.get(method.name, _UNITS_AT_ONCE)
    for first in range(0, len(units), at_once):
        rows = method.rows(base, state[:d], units[first : first + at_once], lambda _: None)
        found = np.linalg.norm(rows, axis=1)
        total += np.minimum(1, clip / np.maximum(found, 1e-30)).astype(np.float32) @ rows
        norms += found.tolist()
    return total, norms


class Judge:
    """Distances, flatness and kind share of samples, against images that no unit has."""

    def __init__(
        self,
        pinned: PinnedBase,
        public: PublicFeatures,
        held_out: NDArray[np.uint8],
        kinds: Sequence[str],
        count: int,
        steps: int,
    ) -> None:
        self.pinned, self.public, self.kinds, self.count, self.steps = pinned, public, kinds, count, steps
        self.real = held_out
        self.held = public.of(held_out)

    def samples(self, method: Method, prompt: str, w: NDArray[np.float32] | None) -> NDArray[np.uint8]:
        """Images of the seeds 0 .. count - 1."""
        base = load_base(self.pinned)
        if w is not None:
            attach(base, method.weights(self.pinned, w))
        drawn = base.sample([prompt] * self.count, list(range(self.count)), steps=self.steps, guidance=1.0)
        return np.stack([np.asarray(one.convert("RGB")) for one in drawn])

    def score(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """KID; deviation over pixels and over samples, each over the real images'; share of the subject's kinds."""
        real, made = spread(self.real), spread(images)
        found = {
            "kid": kid(self.public.of(images), self.held),
            "pixels": made[0] / real[0],
            "samples": made[1] / real[1],
        }
        if self.kinds:
            found["kind"] = float(np.mean([kind in self.kinds for kind in kinds_of(images)]))
        return found


def spread(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Deviation over an image's pixels, mean over images; deviation over images at a pixel, mean over pixels."""
    values = images.astype(np.float64)
    return float(values.std((1, 2)).mean()), float(values.std(0).mean())


def labelled_units(
    base: LoadedBase, pixels: NDArray[np.uint8], places: NDArray[np.int64], captions: Sequence[str], seed: int
) -> list[UnitRecords]:
    """Each image [n, s, s, 3] its own unit, of the class at `places` [n], whose caption is the class's."""
    latents = np.concatenate([base.encode(pixels[at : at + _ENCODED]) for at in range(0, len(pixels), _ENCODED)])
    return [
        UnitRecords(
            latents[number : number + 1],
            (captions[place],),
            np.random.Generator(np.random.Philox(key=seed * 100_000 + number)),
            classes=np.array([place]),
        )
        for number, place in enumerate(places)
    ]


def without_noise(base: LoadedBase, plan: Plan, units: Sequence[UnitRecords], seed: int) -> NDArray[np.float32]:
    """The last state of a plan whose rows are clipped and sampled as planned, and whose sums get no noise."""
    drawn, pinned = np.random.Generator(np.random.Philox(key=seed)), base.pinned
    method = planned_method(plan, pinned)
    if isinstance(method, ShardedMethod):
        return shards_without_noise(base, method, plan, units, seed)
    state = method.initial_state(pinned)
    for round_ in range(1, plan.privacy.rounds + 1):
        stage, asked = plan.stage_of(round_), planned_stage(plan, pinned, round_)
        sampled = [one for one, coin in zip(units, drawn.random(len(units)), strict=True) if coin < stage.sampling_rate]
        total, sent = np.zeros(stage.dimension), state[: plan.state_size]
        for first in range(0, len(sampled), _PLAYED):
            part = sampled[first : first + _PLAYED]
            if isinstance(asked.method, SummingMethod) and asked.method.sums(pinned):
                grid = stage.grid
                found = asked.method.clipped_sum(base, sent, part, scale=grid.scale, clip_units=grid.clip_units)
                total += found / grid.scale
                continue
            rows = asked.method.rows(base, sent, part, lambda _: None)
            lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
            total += np.minimum(1, stage.clip_norm / lengths).astype(np.float32) @ rows
        mean = total / (stage.sampling_rate * len(units))
        aware = isinstance(asked.method, NoiseAware)
        state = asked.method.step_from(state, mean, 0.0) if aware else asked.method.step(state, mean)
    return state


def shards_without_noise(
    base: LoadedBase, method: ShardedMethod, plan: Plan, units: Sequence[UnitRecords], seed: int
) -> NDArray[np.float32]:
    """As `without_noise`, where rows are of shards: as many as all sites have, units dealt out by chance."""
    count = method.shards * len(plan.cohort.units)
    place = np.random.Generator(np.random.Philox(key=seed)).integers(0, count, len(units))
    members = [[unit for unit, at in zip(units, place, strict=True) if at == number] for number in range(count)]
    prepared = [method.prepared(base, _one_shard(some, seed, number)) for number, some in enumerate(members) if some]
    memories: list[NDArray[np.float32] | None] = [None] * len(prepared)
    state, clip = method.initial_state(base.pinned), plan.stages[-1].clip_norm
    # The student is another base: a teacher may compute on this one.
    student = load_base(base.pinned)
    for _ in range(plan.privacy.rounds):
        query, total = method.query(student, state), np.zeros(plan.stages[-1].dimension)
        for number, of in enumerate(prepared):
            drawn = np.random.Generator(np.random.Philox(key=seed * 100_000 + number))
            row, memories[number] = method.shard_row(base, query, of, memories[number], drawn)
            total += row * min(1.0, clip / max(float(np.linalg.norm(row.astype(np.float64))), 1e-30))
        state = method.step_on(student, state, query, total / count)
    return state


def _one_shard(units: Sequence[UnitRecords], seed: int, number: int) -> UnitRecords:
    return UnitRecords(
        np.concatenate([unit.inputs for unit in units]),
        tuple(caption for unit in units for caption in unit.captions),
        np.random.Generator(np.random.Philox(key=seed * 200_000 + number)),
        classes=np.concatenate([unit.classes for unit in units if unit.classes is not None]),
    )
