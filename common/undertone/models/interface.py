"""What methods use of a loaded base: its pinned files, its parts and its noise schedule. No torch here."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.models.pinned import PinnedBase


class Drawer(Protocol):
    """What draws images with a base; a release that is attached to one may put another in its place."""

    def __call__(
        self,
        prompts: Sequence[str],
        generators: Sequence[Any],
        *,
        steps: int,
        guidance: float,
    ) -> list[Any]:
        """One image of PIL for each prompt.

        Args:
            prompts: n captions: words, or names of classes.
            generators: n of torch, on the CPU: image i follows from its own alone, whatever stands beside it.
            steps: of denoising.
            guidance: classifier-free guidance scale; 1 is none.
        """


@runtime_checkable
class OwnDrawer(Drawer, Protocol):
    """A drawer that does not draw by the base's noise schedule, as some releases bring one."""

    def losses(
        self,
        x_0: Any,  # noqa: ANN401 - tensors
        noise: Any,  # noqa: ANN401
        fractions: NDArray[np.float64],
        prompts: Sequence[str],
    ) -> Any | None:  # noqa: ANN401
        """The denoising loss of each row, [n]; None: it draws without a denoiser.

        Args:
            x_0: what is denoised, float32 [n, ...] on the base's device.
            noise: of its shape, standard normal.
            fractions: [n] in [0, 1): a row's noise level by its quantile in training.
            prompts: n.
        """


class Base(Protocol):
    """A frozen base model on one device; `undertone.models.base.LoadedBase` is one.

    `pipeline` is a pipeline of diffusers whose parts are frozen and in eval mode; of a base that is told a class or
    nothing it is those parts side by side (`unet`, `scheduler`, and `vae`, None where pixels are denoised). Which parts
    it has follows from the pinned files, and a method says which it needs (`Method.needs`). `schedule` is diffusers'
    noise schedule of training: `add_noise`, `get_velocity`, and `config` with `num_train_timesteps` and
    `prediction_type`. `drawer` draws images. Types of torch and diffusers stand as Any.
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

    @property
    def labels(self) -> Mapping[str, int]:
        """Name of a class -> its row of the class embedding: the base's own, or those of a release. Empty elsewhere."""

    @property
    def drawer(self) -> Drawer:
        """What draws images."""

    @drawer.setter
    def drawer(self, drawer: Drawer) -> None:
        """Draw with another from now on, as a release does that draws by itself."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [n, h, w, 3] uint8 -> what is denoised [n, *latent_shape] float32."""

    def decode(self, latents: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - an array or a tensor
        """What is denoised [n, *latent_shape] -> pixels [n, h, w, 3] uint8."""

    def predict(self, x_t: Any, t: Any, condition: Any) -> Any:  # noqa: ANN401 - tensors
        """The UNet's output for x_t [n, *latent_shape] at timesteps t [n].

        `condition` is text states [n, positions, width], labels int64 [n], or None, as the kind of the base is.
        """

    def conditions(self, captions: Sequence[str]) -> Any:  # noqa: ANN401 - a tensor or None
        """What `predict` takes for n captions; a caption of a class base is a class's name, or "" for none.

        Raises:
            ModelError: a caption names no class of a class base.
        """

    def name_classes(self, names: Sequence[str]) -> None:
        """On a class base, give a study's classes their labels (`labels_for`); elsewhere nothing.

        Raises:
            ModelError: there are more names than rows.
        """
