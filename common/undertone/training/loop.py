"""The training loop that every stage shares: seeded, averaged, checkpointed, and the same after a kill.

A checkpoint holds everything the next step depends on, the random generator included, so a run that was killed and
resumed has the loss curve of one that was not: bit for bit on a CPU with the same number of threads.
"""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tensorboard.summary import Writer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from undertone.core.durable import write_durable
from undertone.core.progress import reporter
from undertone.errors import FolderError

_LINE_SECONDS = 60.0
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_Weights = tuple[Tensor, ...] | list[Tensor]
Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Course:
    """How one stage is trained.

    `average` is the decay of the exponential moving average that is kept as the result. `precision` is that of the
    matrix products (autocast); weights and sums stay float32.
    """

    steps: int
    batch: int
    learning_rate: float
    average: float = 0.999
    warm_up: int = 100
    weight_decay: float = 0.01
    precision: str = "float32"
    checkpoint_minutes: float = 3.0


def train(
    stage: str,
    model: nn.Module,
    loss: Loss,
    images: int,
    course: Course,
    folder: Path,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> nn.Module:
    """Train a model, from the folder's checkpoint where there is one.

    Args:
        stage: names the checkpoint, the events and the progress bar.
        model: with its first weights; trained in place.
        loss: called with indices int64 [batch] and the generator, gives the loss to lower.
        images: how many images there are to pick from.
        course: the settings.
        folder: of checkpoints and events.
        generator: source of all randomness, on the CPU whatever the model's device.
        weights: how likely each image is picked, [images]; all alike without.

    Returns:
        The averaged model in eval mode.

    Raises:
        FolderError: the checkpoint is damaged or of another model.
    """
    state = _Run(stage, model, course, folder, generator)
    state.load()
    device = next(model.parameters()).device
    saved = time.monotonic()
    with reporter().task(stage, course.steps) as progress:
        progress(len(state.losses))
        for _ in range(len(state.losses), course.steps):
            chosen = _pick(images, course.batch, weights, generator)
            with torch.autocast(device.type, _PRECISIONS[course.precision], enabled=course.precision != "float32"):
                value = loss(chosen, generator)
            state.step(value)
            progress(1)
            if time.monotonic() - saved > 60 * course.checkpoint_minutes:
                state.save()
                saved = time.monotonic()
    state.save()
    state.writer.close()
    result: nn.Module = state.averaged.module
    return result.eval()


def _pick(images: int, batch: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    if weights is None:
        return torch.randint(images, (batch,), generator=generator)
    return torch.multinomial(weights, batch, replacement=True, generator=generator)


class _Run:
    """Everything that changes from step to step, and its checkpoint."""

    def __init__(self, stage: str, model: nn.Module, course: Course, folder: Path, generator: torch.Generator) -> None:
        self.stage, self.model, self.course, self.generator = stage, model, course, generator
        self.path = folder / f"{stage}.checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        self.averaged = AveragedModel(model, multi_avg_fn=self._mean)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=course.learning_rate, weight_decay=course.weight_decay, fused=True
        )
        self.losses: list[float] = []
        self.writer = Writer(str(folder / "events"))
        self._began: tuple[float, int] | None = None  # when the first step of this process was done, and its number
        self._shown = time.monotonic()

    def step(self, loss: Tensor) -> None:
        """One step of AdamW, clipped at norm 1, and of the average."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.course, len(self.losses))
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.model)
        self.losses.append(loss.item())
        self._show()

    def save(self) -> None:
        """Write the checkpoint durably, and the losses so far as text beside it."""
        stream = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "generator": self.generator.get_state(),
            },
            stream,
        )
        write_durable(self.path, stream.getvalue())
        lines = "".join(f"{number},{loss!r}\n" for number, loss in enumerate(self.losses, 1))
        write_durable(self.path.with_suffix(".losses.csv"), ("step,loss\n" + lines).encode())

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.is_file():
            return
        try:
            found = torch.load(self.path, weights_only=True, map_location="cpu")
            self.model.load_state_dict(found["model"])
            self.averaged.load_state_dict(found["average"])
            self.optimiser.load_state_dict(found["optimiser"])
            self.generator.set_state(found["generator"])
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, TypeError) as error:
            raise FolderError(f"{self.path} cannot be resumed: {error}; remove it to train this stage anew") from None
        self.losses = [float(loss) for loss in found["losses"]]
        reporter().line(f"{self.stage}: going on after step {len(self.losses)}")

    @torch.no_grad()
    def _mean(self, means: _Weights, new: _Weights, updates: Tensor | int) -> None:
        """Exponential moving averages whose first steps forget faster, so that the start leaves no trace."""
        decay = min(self.course.average, (1 + float(updates)) / (10 + float(updates)))
        torch._foreach_lerp_(list(means), list(new), 1 - decay)

    def _show(self) -> None:
        """Events every ten steps; a line with the time left every minute."""
        number = len(self.losses)
        if number % 10 == 0:
            recent = self.losses[-10:]
            self.writer.add_scalar(f"{self.stage}/loss", sum(recent) / len(recent), number)
            self.writer.add_scalar(f"{self.stage}/learning_rate", rate(self.course, number), number)
        now = time.monotonic()
        self._began = self._began or (now, number)  # a first step may compile: it is no measure of the others
        began, first = self._began
        if number != self.course.steps and (number == first or now - self._shown < _LINE_SECONDS):
            return
        self._shown = now
        pace = (now - began) / max(1, number - first)
        recent = self.losses[-200:]
        left = pace * (self.course.steps - number) / 60
        reporter().line(
            f"{self.stage} {number}/{self.course.steps}  loss {sum(recent) / len(recent):.4f}"
            f"  {pace:.3g} s/step  {left:.1f} min left"
        )


def rate(course: Course, step: int) -> float:
    """The learning rate: it rises for `warm_up` steps and falls to zero along a cosine at `steps`."""
    rise = min(1.0, (step + 1) / max(1, course.warm_up))
    return course.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / course.steps)))
