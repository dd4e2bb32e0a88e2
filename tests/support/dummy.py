"""A method and a base without torch: protocol tests take milliseconds, and each row can be worked out by hand.

The only seam that is patched is `undertone_client.compute.preparing._loaded`, which puts a base model into memory.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from undertone.core.config import Section
from undertone.errors import PlanChanged
from undertone.methods.classes import ClassShown
from undertone.methods.protocol import Automatic, Draw, MethodStage, Progress, UnitRecords
from undertone.methods.release_format import Description, ReleaseFormat, Respelled, Shapes, Weights
from undertone.models.expected import EXPECTED
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase
from undertone.privacy.quantise import Grid, clip_and_quantise

FEATURES = 12  # the latents [3, 2, 2] of a dummy base, flat
DIMENSION = FEATURES + 2
SIZE = 8


class DummyOptions(Section):
    token: str = "<dummy>"
    rate: float = 1.0
    summing: bool = False
    staged: bool = False


class DummyFile:
    """`dummy.safetensors`: both tensors of the layout."""

    files = ("dummy.safetensors",)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        return {self.files[0]: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        return Layout(tuple(sorted(shapes[self.files[0]].items())))

    def attach(self, base: Any, weights: Weights) -> None:
        del weights
        base.adapted = True

    def fuse(self, base: Any) -> None:
        del base

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        del program, weights
        return None

    def describe(self) -> Description:
        return Description("a dummy", "two means: nothing draws with them", "# nothing loads a dummy")


class DummyMethod:
    """Row of u: (mean latents - w, number of images, one draw of u's own generator). Step: w + rate * mean."""

    name: ClassVar[str] = "dummy"
    options_type: ClassVar[type[Section]] = DummyOptions
    one_shot: ClassVar[bool] = False
    alignment = 1.0
    few_drawings: ClassVar[int] = 4
    needs: ClassVar[frozenset[str]] = frozenset()
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DummyFile(),)
    release_format = formats[0]
    automatic: ClassVar[Automatic] = Automatic(clip_share=1.0)

    def __init__(self, options: DummyOptions) -> None:
        self.options = options

    @property
    def token(self) -> str:
        return self.options.token

    def lighter(self) -> Sequence[tuple[str, "DummyMethod"]]:
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        del base, caption

    def layout(self, base: PinnedBase) -> Layout:
        del base
        return Layout((("features", (FEATURES,)), ("others", (2,))))

    def dimension(self, base: PinnedBase) -> int:
        return self.layout(base).size

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        return np.zeros(self.sent(base), dtype=np.float32)

    passes = 1

    def public_lengths(self, base: object, caption: str, count: int) -> NDArray[np.float64]:
        del base, caption
        return np.full(count, 2.0)

    def reach(self, clip_norm: float, length: float) -> float | None:
        return self.options.rate * min(1.0, clip_norm / length)

    def rows(
        self, base: object, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        del base
        progress(len(units))
        return np.array([self.row(state, unit) for unit in units], dtype=np.float32).reshape(-1, DIMENSION)

    def sums(self, base: PinnedBase) -> bool:
        del base
        return self.options.summing

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        del generator
        return range(records)

    def clipped_sum(
        self,
        base: object,
        state: NDArray[np.float32],
        batch: Sequence[UnitRecords | None],
        *,
        scale: int,
        clip_units: int,
    ) -> NDArray[np.int64]:
        del base
        rows = np.array([self.row(state, unit) for unit in batch if unit is not None], dtype=np.float32)
        grid = Grid(scale, clip_units, 1 << 30, 32)
        return clip_and_quantise(rows.reshape(-1, DIMENSION), grid).sum(axis=0)

    @staticmethod
    def row(state: NDArray[np.float32], unit: UnitRecords) -> NDArray[np.float32]:
        features = unit.latents.mean(0).reshape(-1) - state[:FEATURES]
        return np.array([*features, len(unit.captions), unit.generator.random()], dtype=np.float32)

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        return (state + self.options.rate * mean).astype(np.float32)

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        return state[:DIMENSION]

    def weights(self, base: PinnedBase, state: NDArray[np.float32]) -> Weights:
        return self.release_format.write(self.layout(base), state)

    def fixed(self, name: str) -> Draw | None:
        del name
        return None

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        del of
        return caption, caption

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """One; `staged`: a first round whose rows are features alone, then rounds that move the largest of them."""
        if not self.options.staged:
            return [MethodStage("", self, self.dimension(base))]
        first, then = LargestFeature(self.options), OneFeature(self.options)
        return [
            MethodStage("selection", first, FEATURES, rounds=1, share=0.1, clip_norm=2.0, check=first.check_chosen),
            MethodStage("", then, DIMENSION, check=then.check_chosen),
        ]

    def sent(self, base: PinnedBase) -> int:
        return self.dimension(base) + self.options.staged


class LargestFeature(DummyMethod):
    """Row: mean latents. Step: behind w stands which feature is largest, counted from 1; 0 before."""

    @staticmethod
    def row(state: NDArray[np.float32], unit: UnitRecords) -> NDArray[np.float32]:
        del state
        return np.asarray(unit.latents.mean(0).reshape(-1), dtype=np.float32)

    def rows(
        self, base: object, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        del base
        progress(len(units))
        return np.array([self.row(state, unit) for unit in units], dtype=np.float32).reshape(-1, FEATURES)

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.append(state[:DIMENSION], np.float32(1 + np.argmax(mean))).astype(np.float32)

    def check_chosen(self, state: NDArray[np.float32]) -> None:
        if state[DIMENSION] != 0:
            raise PlanChanged("a feature is chosen before the selection")


class OneFeature(DummyMethod):
    """The dummy's row, all features but the chosen one zero."""

    @staticmethod
    def row(state: NDArray[np.float32], unit: UnitRecords) -> NDArray[np.float32]:
        row, chosen = DummyMethod.row(state, unit), int(state[DIMENSION]) - 1
        row[:FEATURES] = np.where(np.arange(FEATURES) == chosen, row[:FEATURES], 0)
        return row

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.append(super().step(state[:DIMENSION], mean), state[DIMENSION]).astype(np.float32)

    def check_chosen(self, state: NDArray[np.float32]) -> None:
        if state[DIMENSION] not in range(1, FEATURES + 1):
            raise PlanChanged("no feature is chosen")


class DummyBase:
    """Latents are the means of 4 x 4 pixels."""

    image_size = SIZE
    latent_shape = (3, 2, 2)
    device = SimpleNamespace(type="cpu")  # torch.device without torch
    arithmetic = "cpu"

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        blocks = images.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4)) / 255
        return blocks.transpose(0, 3, 1, 2).astype(np.float32)


def _least_weights(part: str, config: Mapping[str, object]) -> dict[str, NDArray[np.float32]]:
    """What `pin` looks for, each of the least size; words are numbered."""
    tensors = {}
    for names, shape in EXPECTED[part](config):
        lengths = [one if isinstance(one, int) else 1 for one in shape or (1,)]
        if names[0].endswith("attn2.to_k.weight"):
            lengths[1] = 4
        tensors[names[0]] = np.zeros(lengths, dtype=np.float32)
    if part == "text_encoder":
        tensors["text_model.embeddings.token_embedding.weight"] = np.arange(8, dtype=np.float32).reshape(2, 4)
    return tensors


def make_dummy_base(folder: Path) -> Path:
    """A folder that `pin` accepts: the files of a diffusers base, with next to nothing in them."""
    classes = {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    configs = {
        "vae/config.json": {"block_out_channels": [1, 1, 1]},
        "text_encoder/config.json": {
            "hidden_size": 4,
            "intermediate_size": 4,
            "vocab_size": 2,
            "num_hidden_layers": 1,
            "max_position_embeddings": 8,
        },
        "tokenizer/vocab.json": {"a</w>": 0, "picture</w>": 1},
        "tokenizer/tokenizer_config.json": {"model_max_length": 8},
        "unet/config.json": {
            "sample_size": 2,
            "cross_attention_dim": 4,
            "block_out_channels": [1],
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "layers_per_block": 1,
        },
        "scheduler/scheduler_config.json": {},
        "model_index.json": {
            part: ["transformers" if name.startswith("CLIP") else "diffusers", name] for part, name in classes.items()
        },
    }
    for name, value in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    for part, file in (
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ):
        save_file(_least_weights(part, configs[f"{part}/config.json"]), folder / part / file)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    return folder
