"""The keys of [method] that say what a whole denoiser is, and the public figures that go with its release."""

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import NAME
from undertone.core.classes import MOST
from undertone.core.config import Section
from undertone.errors import UnfitWeights

ParametrisationName = Literal["base", "edm", "v", "vp", "ve"]
SamplerName = Literal["ddim", "stochastic", "heun"]
_PARAMETRISATIONS: tuple[ParametrisationName, ...] = get_args(ParametrisationName)
_SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
# sigma_data where a study leaves it: of images in -1..1 that are evenly grey, as in DPDM; of whitened latents.
OF_PIXELS, OF_LATENTS = sqrt(1 / 3), 1.0


class DenoiserOptions(Section):
    """[method] keys of every method that trains a whole small denoiser.

    initial_weights: "base", whose weights are w_0, or "scratch", drawn from `initial_seed`. parametrisation: "base"
    goes on as the base was trained; "edm", "v", "vp", "ve" as in DPDM, from scratch. sigma_data: of EDM (0: 0.577 for
    pixels, 1 for latents); log_sigma_mean, log_sigma_deviation: of EDM's ln sigma.

    sampler: how images are drawn from a release, over noise levels sigma_max to sigma_min; churn and the three keys
    after it are S_churn, S_tmin, S_tmax and S_noise of "heun".

    per_class: the base is told a class, true unless it is told nothing; class_names: the study's, which `plan` fills
    in. caption_dropout: the share of classes left out, for guidance.
    """

    initial_weights: Literal["base", "scratch"] = "base"
    initial_seed: int = Field(default=0, ge=0, lt=1 << 31)
    parametrisation: ParametrisationName = "base"
    sigma_data: float = Field(default=0.0, ge=0, le=100)
    log_sigma_mean: float = Field(default=-1.2, ge=-10, le=10)
    log_sigma_deviation: float = Field(default=1.2, gt=0, le=10)
    sampler: SamplerName = "heun"
    sigma_min: float = Field(default=0.002, gt=0, le=1)
    sigma_max: float = Field(default=80.0, gt=1, le=1000)
    rho: float = Field(default=7.0, ge=1, le=100)
    churn: float = Field(default=0.0, ge=0, le=1000)
    churn_min: float = Field(default=0.05, ge=0, le=1000)
    churn_max: float = Field(default=50.0, ge=0, le=1000)
    churn_noise: float = Field(default=1.0, gt=0, le=2)
    per_class: bool = True
    class_names: list[Annotated[str, Field(max_length=NAME)]] = Field(default_factory=list, max_length=MOST)
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)

    def model_post_init(self, context: object, /) -> None:
        """Keys that go together.

        Raises:
            ValueError: turned into a `StudyError` by `parse_options`.
        """
        super().model_post_init(context)
        if self.initial_weights == "base" and self.parametrisation != "base":
            raise ValueError(
                f'method.parametrisation = "{self.parametrisation}" goes with method.initial_weights = "scratch": the '
                "base's weights were trained to answer something else, and noise levels reach them in another form. "
                'Leave parametrisation out, or say initial_weights = "scratch"'
            )
        if self.churn_max < self.churn_min:
            raise ValueError("method.churn_max is below method.churn_min, so that no level has churn; give churn = 0")
        if self.churn and self.sampler != "heun":
            raise ValueError(f'method.churn goes with method.sampler = "heun"; with "{self.sampler}" leave it out')


@dataclass(frozen=True)
class Figures:
    """What drawing from a release needs beside weights: public, of the plan, and in the release as float32 [12]."""

    parametrisation: ParametrisationName
    sigma_data: float
    log_sigma_mean: float
    log_sigma_deviation: float
    sampler: SamplerName
    sigma_min: float
    sigma_max: float
    rho: float
    churn: float
    churn_min: float
    churn_max: float
    churn_noise: float

    @classmethod
    def of(cls, options: DenoiserOptions) -> "Figures":
        """Those of a study."""
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    def as_tensor(self) -> NDArray[np.float32]:
        """Names as their numbers, and the other figures as they are."""
        first, second = _PARAMETRISATIONS.index(self.parametrisation), _SAMPLERS.index(self.sampler)
        held = self.__dict__ | {"parametrisation": first, "sampler": second}
        return np.array([held[name] for name in self.__dataclass_fields__], dtype=np.float32)

    @classmethod
    def from_tensor(cls, held: NDArray[np.float32]) -> "Figures":
        """The reverse.

        Raises:
            UnfitWeights: no study has such figures.
        """
        if held.shape != (len(cls.__dataclass_fields__),):
            raise UnfitWeights(f"{len(cls.__dataclass_fields__)} figures say how images are drawn, not {held.shape}")
        named = dict(zip(cls.__dataclass_fields__, (float(one) for one in held), strict=True))
        try:
            read = named | {
                "parametrisation": _PARAMETRISATIONS[_number(named["parametrisation"])],
                "sampler": _SAMPLERS[_number(named["sampler"])],
            }
            options = DenoiserOptions.model_validate({**read, "initial_weights": "scratch"})
        except (IndexError, ValueError) as error:
            raise UnfitWeights(f"the figures by which images are drawn are none of a study: {error}") from None
        return cls.of(options)


def _number(held: float) -> int:
    if held != int(held) or held < 0:
        raise ValueError(f"{held} numbers no name")
    return int(held)


SIZE = len(Figures.__dataclass_fields__)
