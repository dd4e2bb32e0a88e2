"""`dp-sad`: many teachers, each of one shard, distilled into one student through its outputs (PRIVACY 15).

    query  x_sigma, x = D_w(x_sigma; sigma, y)      B outputs of the student at one noise level, from public noise
    row    of a shard   d/dx of  |x_T - x|^2 + lambda log(1 - E(x))     x_T what its teacher answers
    step   w <- Adam(d <V / (s N), x> / d w)        the chain rule, through the student alone

After Liu et al. (DP-SAD, arXiv 2408.14738), whose own guarantee does not bound what teacher and discriminator saw
(docs/methods.md#dp-sad). Sites are sent x_sigma and x and never w; w are the weights themselves, as in dpdm
(`methods/denoiser/whole_denoiser.py`). Behind w the state has Adam's moments, an average of w, and the round's number.
"""

from collections.abc import Sequence
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import TOKEN, caption_fields
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation, ModelError, PlanChanged, StudyError
from undertone.methods.denoiser.whole_denoiser import WholeDenoiser
from undertone.methods.gradient.optimisers import server_optimiser
from undertone.methods.protocol import Automatic, Method, Progress, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.methods.sad.discriminator import Discriminator, network_of
from undertone.methods.sad.options import MOST_VALUES, SADOptions
from undertone.methods.sad.perceptron import kept_size
from undertone.methods.sad.query import NONE, Drawn, Query, drawn, length
from undertone.methods.sad.teachers import ExactTeacher, Teacher, TrainedTeacher
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase

State = NDArray[np.float32]
# Public shards, for C: so many of these drawings in each.
_SEED, _DRAWINGS, _IN_A_SHARD = 20_261_132, 256, 64


class DPSAD(WholeDenoiser):
    """The method `dp-sad`; see the module's description."""

    name: ClassVar[str] = "dp-sad"
    options_type: ClassVar[type[Section]] = SADOptions
    one_shot: ClassVar[bool] = False
    few_drawings: ClassVar[int] = 8
    automatic: ClassVar[Automatic] = Automatic(rounds=200)
    options: SADOptions

    def __init__(self, options: SADOptions) -> None:
        self.options = options
        self._optimiser = server_optimiser(options)

    # --- what is public ---------------------------------------------------------------------------

    @property
    def shards(self) -> int:
        """How many shards each site has, S."""
        return self.options.shards

    @property
    def alignment(self) -> float:
        """Shards that all pull one way have a mean row of length C; a plan's figure is relative to it."""
        return 1.0

    @property
    def release_format(self) -> ReleaseFormat:
        """The one there is."""
        return self.formats[0]

    @property
    def token(self) -> str:
        """It learns no word."""
        return ""

    def lighter(self) -> Sequence[tuple[str, Method]]:
        """None: a shard's row takes next to no memory."""
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        """The base is told what the study's captions are, and a query has no more values than noise may enter.

        Raises:
            ModelError: it is told text, or has too few classes.
            StudyError: a caption is more than a class's name, there are classes and the base is told none, or a query
                would be too long.
        """
        if TOKEN in caption_fields(caption):
            raise StudyError(
                f'data.caption = "{caption}": {self.name} learns no word, so write one in place of {{token}}'
            )
        self.check_denoiser(base, caption)
        values = _values(base)
        if values > MOST_VALUES:
            raise StudyError(
                f"{base.reference} denoises {values} values; noise enters each of a row's, and {self.name} takes "
                f"{MOST_VALUES} at most: take a base with an autoencoder, or smaller images"
            )
        if self.options.outputs * values > MOST_VALUES:
            most = MOST_VALUES // values
            raise StudyError(
                f"method.outputs = {self.options.outputs} of {values} values are more than {MOST_VALUES}; say {most}"
            )

    def dimension(self, base: PinnedBase) -> int:
        """As many values as the UNet has that the study moves."""
        return self.layout(base).size

    def initial_state(self, base: PinnedBase) -> State:
        """`w` and the optimiser's memory before the first round."""
        return self.state_at(base, self._start(base))

    def state_at(self, base: PinnedBase, w: State) -> State:
        """The same from this w: the optimiser's average begins there too."""
        del base
        return self._optimiser.start(w)

    def released(self, state: State) -> State:
        """The average of w over rounds, or the last w where there is none; [d]."""
        return self._optimiser.released(state)

    def weights(self, base: PinnedBase, w: State) -> Weights:
        """All tensors of w, and the figures by which images are drawn."""
        return self._released(base, w)

    def reach(self, clip_norm: float, length: float) -> float | None:
        """None: Adam divides by the gradients' size."""
        del clip_norm, length
        return None

    # --- queries ----------------------------------------------------------------------------------

    def sent(self, base: PinnedBase) -> int:
        """B inputs, B outputs, B labels, the noise level and the round's number."""
        return length(self._outputs(base), _values(base))

    def row(self, base: PinnedBase) -> int:
        """B D."""
        return self._outputs(base) * _values(base)

    def query(self, base: Base, state: State) -> State:
        """The student's answers at w in the round whose number the state holds, [sent]."""
        return self._asked(base, state).vector()

    def check_query(self, base: PinnedBase, query: State, round_: int) -> None:
        """It is one: all values finite, the round this one, and noise level and labels those that are drawn for it.

        Raises:
            PlanChanged: it is not.
        """
        found = Query.of(query, self._outputs(base), _values(base))
        if not found.is_of(self._drawn(base, round_ - 1)):
            raise PlanChanged("the coordinator sent a query whose noise level or labels are not those of the round")

    def step_on(self, base: Base, state: State, query: State, mean: NDArray[np.float64]) -> State:
        """One step of the optimiser, against the noised mean gradient at the student's outputs through the student."""
        from undertone.methods.sad.student import chained  # torch

        asked = Query.of(query, self._outputs(base.pinned), _values(base.pinned))
        g = mean.reshape(asked.outputs.shape).astype(np.float32)
        with self._trained_at(base, self._w(base.pinned, state)) as student:
            gradient = chained(base, student, self.options, self._names(asked.labels), asked, g)
        return self._optimiser.advance(state, gradient.astype(np.float64))

    def _asked(self, base: Base, state: State) -> Query:
        from undertone.methods.sad.student import asked  # torch

        of = self._drawn(base.pinned, int(state[-1]))
        with self._trained_at(base, self._w(base.pinned, state)) as student:
            return asked(base, student, self.options, self._names(of.labels), of)

    def _drawn(self, base: PinnedBase, round_: int) -> Drawn:
        from undertone.methods.sad.student import noise_levels  # torch

        return drawn(self.options, noise_levels(base, self.options), len(self.classes), self._outputs(base), round_)

    # --- a shard ----------------------------------------------------------------------------------

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """A random choice of `records` of them, where there are more."""
        chosen: list[int] = generator.permutation(records)[: self.options.records].tolist()
        return chosen

    def prepared(self, base: Base, shard: UnitRecords) -> State:
        """Its latents and their classes, or the teacher that it trained on them."""
        latents = shard.inputs.reshape(len(shard.captions), -1)
        if latents.shape[1] != _values(base.pinned):
            raise MechanismViolation(f"a shard's records have {latents.shape[1]} values, and the base other ones")
        places = self._places(shard)
        if self.options.teacher == "exact":
            return ExactTeacher(latents, places).vector()
        return TrainedTeacher.trained(self.options, latents, places, len(self.classes), shard.generator).vector()

    def memory(self, base: PinnedBase) -> int:
        """Of the discriminator; none where lambda is 0."""
        if not self.options.adversarial:
            return 0
        return kept_size(network_of(self.options, _values(base), len(self.classes)))

    def shard_row(
        self, base: Base, query: State, prepared: State, memory: State | None, generator: np.random.Generator
    ) -> tuple[State, State]:
        """The gradient at the student's outputs, zero where the shard has no record of a label; and what it remembers.

        A row that is not finite comes with the memory of before.
        """
        del generator  # nothing is drawn
        values = _values(base.pinned)
        asked = Query.of(query, self._outputs(base.pinned), values)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            answers, has = self._teacher(prepared, values).answers(asked)
            row = np.where(has[:, None], 2 * (asked.outputs - answers), 0.0)
            if not self.options.adversarial:
                return row.astype(np.float32).reshape(-1), np.zeros(0, dtype=np.float32)
            judge = Discriminator(self.options, values, len(self.classes), memory)
            before = judge.memory.copy()
            judge.learn(asked, answers.astype(np.float32), has)
            row += np.where(has[:, None], self.options.adversarial * judge.gradients(asked), 0.0)
        finite = bool(np.isfinite(row).all() and np.isfinite(judge.memory).all())
        return row.astype(np.float32).reshape(-1), judge.memory if finite else before

    def _teacher(self, prepared: State, values: int) -> Teacher:
        if self.options.teacher == "exact":
            return ExactTeacher.of(prepared, values)
        return TrainedTeacher.of(prepared, self.options, values, len(self.classes))

    def _places(self, shard: UnitRecords) -> NDArray[np.int64]:
        """Of each record's class in the study's list; -1 where nothing is learned by class."""
        if not self.classes:
            return np.full(len(shard.captions), NONE, dtype=np.int64)
        if shard.classes is None or shard.classes.max() >= len(self.classes):
            raise MechanismViolation("a student of classes needs records that have a class of the plan's list")
        return shard.classes

    # --- C ----------------------------------------------------------------------------------------

    @property
    def passes(self) -> int:
        """One query of a public shard, two passes a step; a site's own rows run no network of the base."""
        return 2 * self.options.query_steps

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of rows of `count` public shards at the start, [count], shard i in round i.

        Each shard is a public choice of 64 out of 256 drawings, drawing j of class j modulo K.
        """
        from undertone.methods.public import public_units  # drawings: slow to import

        found, state = np.empty(count), self.initial_state(base.pinned)
        with reporter().task("rows of public drawings", count) as progress:
            units = public_units(base, _SEED, _DRAWINGS, caption, classes=max(1, len(self.classes)))
            for number in range(count):
                state[-1] = number
                shard = self._public_shard(units, number)
                query, prepared = self.query(base, state), self.prepared(base, shard)
                row, _ = self.shard_row(base, query, prepared, None, shard.generator)
                found[number] = np.linalg.norm(row.astype(np.float64))
                progress(1)
        return found

    def _public_shard(self, units: Sequence[UnitRecords], number: int) -> UnitRecords:
        """Shard `number` of drawings."""
        generator = np.random.Generator(np.random.Philox(key=np.array([_SEED, number], dtype=np.uint64)))
        chosen = [units[place] for place in generator.permutation(len(units))[:_IN_A_SHARD]]
        return UnitRecords(
            np.concatenate([one.inputs for one in chosen]),
            tuple(caption for one in chosen for caption in one.captions),
            generator,
            classes=np.concatenate([one.classes for one in chosen if one.classes is not None]),
        )

    # --- what nothing may call --------------------------------------------------------------------

    def sums(self, base: PinnedBase) -> bool:
        """No: rows are of shards, and short."""
        del base
        return False

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> NoReturn:
        """Rows are of shards.

        Raises:
            MechanismViolation: always.
        """
        raise MechanismViolation(f"{self.name} has rows of shards, and none of units")

    def step(self, state: State, mean: NDArray[np.float64]) -> NoReturn:
        """A step goes through the student.

        Raises:
            MechanismViolation: always.
        """
        raise MechanismViolation(f"{self.name} steps through the student, with a base")

    # --- within -----------------------------------------------------------------------------------

    def _outputs(self, base: PinnedBase) -> int:
        """B."""
        return self.options.outputs or max(1, MOST_VALUES // _values(base))

    def _w(self, base: PinnedBase, state: State) -> State:
        return state[: self.dimension(base)]

    def _names(self, labels: NDArray[np.int64]) -> list[str]:
        """The class of each label, "" for none."""
        return ["" if label == NONE else self.classes[label] for label in labels]


def _values(base: PinnedBase) -> int:
    """D, of one latent, or of one image where pixels are denoised; from the base's files alone.

    Raises:
        ModelError: they do not say.
    """
    unet = base.config("unet")
    try:
        side = int(unet["sample_size"])
        channels = base.config("vae")["latent_channels"] if "vae" in base.parts else unet["in_channels"]
    except KeyError as error:
        raise ModelError(f"{base.reference} does not say how large a latent is: no {error} in a config.json") from None
    return int(channels) * side * side
