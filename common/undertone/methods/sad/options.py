"""The keys of [method] of dp-sad."""

from typing import Literal

from pydantic import Field

from undertone.methods.denoiser.options import DenoiserOptions
from undertone.methods.gradient.optimisers import OptimiserOptions

# B D at most: noise enters so many values in each round.
MOST_VALUES = 1024


class SADOptions(DenoiserOptions, OptimiserOptions):
    """[method] keys of dp-sad. S = shards, B = outputs, lambda = adversarial.

    shards: at each site; records: the most records of a unit that stand in its shard. outputs: latents of a query (0:
    as many as 1,024 values hold). query_seed: of all that is drawn in queries; query_steps: of the student's sampler
    down to a round's noise level; query_log_sigma_mean, query_log_sigma_deviation: of ln sigma of that level, normal.
    caption_dropout: the share of labels in a query that are none, so that guidance works afterwards.

    teacher: "exact", the minimiser of the denoising loss on the shard, or "trained", a small network. teacher_width,
    teacher_steps, teacher_batch, teacher_rate: of that network. discriminator_width, discriminator_steps (in each
    round), discriminator_rate: of a shard's discriminator, which there is where lambda is above 0.
    """

    shards: int = Field(default=64, ge=2, le=4096)
    records: int = Field(default=64, ge=1, le=1024)
    outputs: int = Field(default=0, ge=0, le=MOST_VALUES)
    query_seed: int = Field(default=0, ge=0, lt=1 << 31)
    query_steps: int = Field(default=8, ge=2, le=1000)
    query_log_sigma_mean: float = Field(default=1.0, ge=-10, le=10)
    query_log_sigma_deviation: float = Field(default=1.0, gt=0, le=10)
    teacher: Literal["exact", "trained"] = "exact"
    teacher_width: int = Field(default=128, ge=1, le=1024)
    teacher_steps: int = Field(default=300, ge=1, le=100_000)
    teacher_batch: int = Field(default=32, ge=1, le=1024)
    teacher_rate: float = Field(default=1e-3, gt=0, le=1)
    adversarial: float = Field(default=1.0, ge=0, le=1000)
    discriminator_width: int = Field(default=32, ge=1, le=1024)
    discriminator_steps: int = Field(default=2, ge=1, le=1000)
    discriminator_rate: float = Field(default=1e-3, gt=0, le=1)
    optimiser: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = Field(default=0.001, gt=0, le=1e4)
    ema: float = Field(default=0.9, ge=0, lt=1)
