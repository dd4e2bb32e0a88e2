"""CONFIG.toml of `undertone pretrain`: what a person writes, read strictly like a study. Imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from undertone.core.captions import caption_fields
from undertone.core.config import Section, parse_tables, read_tables
from undertone.public_images.procedural import KINDS

Precision = Literal["auto", "float32", "bfloat16"]
Kind = Literal["text", "class", "none"]
Denoised = Literal["latents", "pixels", "grey"]
Channels = Annotated[list[Annotated[int, Field(ge=8, le=2048, multiple_of=8)]], Field(min_length=2, max_length=6)]


class PretrainTable(Section):
    """[pretrain]: the model's name, and the public seed of all randomness."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,62}$")
    seed: int = Field(default=1, ge=0, lt=2**31)


class DataTable(Section):
    """[data]: a folder of public images with their captions, or (without `folder`) the built-in drawn ones."""

    folder: str | None = None
    size: int = Field(default=64, ge=16, le=1024)
    images: int = Field(default=40_000, ge=16, le=10_000_000)
    caption: str = Field(default="{text}", min_length=1)
    class_column: str | None = None
    kinds: Annotated[list[str], Field(min_length=1)] | None = None
    licence: str = "unknown"

    @field_validator("caption")
    @classmethod
    def _is_template(cls, value: str) -> str:
        caption_fields(value)
        return value


class StageTable(Section):
    """How a stage is trained: keys that both stages have."""

    steps: int = Field(default=2000, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    average: float = Field(default=0.998, ge=0, lt=1)
    warm_up: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    precision: Precision = "auto"


class AutoencoderTable(StageTable):
    """[autoencoder]: its shape and loss; with `base`, the finished autoencoder of another model and no training."""

    base: str | None = None
    channels: Channels = Field(default=[16, 32, 64, 64])
    layers: int = Field(default=1, ge=1, le=4)
    latent_channels: int = Field(default=4, ge=1, le=64)
    l1: float = Field(default=0.3, ge=0)
    kl: float = Field(default=1e-4, ge=0)
    chroma: float = Field(default=1.0, ge=0)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    average: float = Field(default=0.995, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)


class UnetTable(StageTable):
    """[unet]: what it is told (a caption, a class, nothing), what it denoises, and its shape; the text encoder's too.

    denoises: the autoencoder's latents; or pixels themselves, without an autoencoder, in three channels or in one
    ("grey", the mean of the colours).
    """

    kind: Kind = "text"
    denoises: Denoised = "latents"
    channels: Channels = Field(default=[64, 128])
    layers: int = Field(default=1, ge=1, le=4)
    width: int = Field(default=64, ge=16, le=1024, multiple_of=16)
    text_layers: int = Field(default=2, ge=1, le=24)
    drop: float = Field(default=0.1, ge=0, lt=1)
    time_power: float = Field(default=1.0, ge=0.25, le=4)
    align: float = Field(default=0.0, ge=0)
    compile: bool = False
    favour: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(default_factory=dict)
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1.2e-3, gt=0, le=1)


class RunTable(Section):
    """[run]: how often a checkpoint is written."""

    checkpoint_minutes: float = Field(default=3.0, gt=0)


class Config(Section):
    """A whole CONFIG.toml."""

    pretrain: PretrainTable
    data: DataTable = DataTable()
    autoencoder: AutoencoderTable = AutoencoderTable()
    unet: UnetTable = UnetTable()
    run: RunTable = RunTable()

    def model_post_init(self, _context: object, /) -> None:
        """Combinations of keys that cannot be.

        Raises:
            ValueError: turned into a `StudyError` by `load_config`.
        """
        if self.unet.kind == "class" and self.data.folder and not self.data.class_column:
            raise ValueError('unet.kind = "class" needs data.class_column, the column that names an image\'s class')
        if self.data.folder and self.data.kinds is not None:
            raise ValueError("data.kinds goes without data.folder: it says which images Undertone draws")
        unknown = sorted(set(self.data.kinds or ()) - set(KINDS))
        if unknown:
            raise ValueError(f"data.kinds: there are no drawings of {', '.join(unknown)}; known are {', '.join(KINDS)}")
        if self.data.folder is None and self.data.class_column:
            raise ValueError("data.class_column goes with data.folder; drawn images have their kinds as classes")
        smallest = 2 ** (len(self.unet.channels) - 1)
        if self.unet.denoises != "latents":
            self._check_pixels(smallest)
            return
        latent = self.data.size // 2 ** (len(self.autoencoder.channels) - 1)
        if self.autoencoder.base is None and (latent < smallest or latent % smallest):
            raise ValueError(
                f"data.size = {self.data.size} leaves a latent of {latent} x {latent}, too small for "
                f"{len(self.unet.channels)} unet.channels; take fewer channels or larger images"
            )
        if self.data.size % 2 ** (len(self.autoencoder.channels) - 1):
            raise ValueError(
                f"data.size = {self.data.size} cannot be halved {len(self.autoencoder.channels) - 1} times; "
                "take another size or fewer autoencoder.channels"
            )

    def _check_pixels(self, smallest: int) -> None:
        if self.unet.kind == "text":
            raise ValueError('unet.denoises = "pixels" and "grey" go with unet.kind = "class" or "none"')
        if self.autoencoder != AutoencoderTable():
            raise ValueError(f'unet.denoises = "{self.unet.denoises}" has no autoencoder; leave [autoencoder] out')
        if self.data.size % smallest:
            raise ValueError(
                f"data.size = {self.data.size} cannot be halved {len(self.unet.channels) - 1} times; take another size "
                "or fewer unet.channels"
            )


def load_config(path: Path) -> Config:
    """Read and validate CONFIG.toml.

    Raises:
        StudyError: the file is missing, is not TOML, or has a key or value that cannot be; one line.
    """
    return parse_tables(Config, read_tables(path), path.name)
