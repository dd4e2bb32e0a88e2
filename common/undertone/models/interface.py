"""What methods use of a loaded base: its pinned files, its parts and its noise schedule. No torch here."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from undertone.models.pinned import PinnedBase


class Base(Protocol):
    """A frozen base model on one device; `undertone.models.base.LoadedBase` is one.

    `pipeline` is a pipeline of diffusers whose parts are frozen and in eval mode. Which parts it has follows from the
    pinned files, and a method says which it needs (`Method.needs`). `schedule` is diffusers' noise schedule of
    training: `add_noise`, `get_velocity`, and `config` with `num_train_timesteps` and `prediction_type`. Types of
    torch and diffusers stand as Any.
    """

    @property
    def pinned(self) -> PinnedBase:
        """The files it was loaded from."""

    @property
    def pipeline(self) -> Any:  # noqa: ANN401 - a diffusers pipeline
        """The parts of the model by name."""

    @property
    def schedule(self) -> Any:  # noqa: ANN401 - a diffusers scheduler
        """Noise levels, and what is predicted."""

    @property
    def device(self) -> Any:  # noqa: ANN401 - a torch.device
        """Where the parts lie."""

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of what is denoised."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [n, h, w, 3] uint8 -> what is denoised [n, *latent_shape] float32."""
