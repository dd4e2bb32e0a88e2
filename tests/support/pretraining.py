"""A very small pre-training, and ways to stop it in the middle."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
[pretrain]
name = "small"
[data]
folder = "images"
size = 16
caption = "{text}"
class_column = "shape"
[autoencoder]
channels = [8, 16]
steps = 6
batch = 4
warm_up = 2
[unet]
kind = "KIND"
channels = [16, 32]
width = 16
text_layers = 1
steps = 6
batch = 4
warm_up = 2
[run]
checkpoint_minutes = 0.0000001
"""


class Stopped(BaseException):
    """A death that `except Exception` does not see."""


class Fatal:
    """A reporter: the run dies when a task has done so many steps."""

    def __init__(self, label: str, after: int, die: Callable[[], None]) -> None:
        self._label, self._after, self._die, self._done = label, after, die, 0

    @contextmanager
    def task(self, label: str, _total: int) -> Iterator[Callable[[int], None]]:
        def progress(steps: int) -> None:
            if label == self._label:
                self._done += steps
                if self._done >= self._after:
                    self._die()

        yield progress

    def line(self, _text: str) -> None: ...


def stop() -> None:
    raise Stopped


def write_config(folder: Path, kind: str = "text", count: int = 20) -> Path:
    """CONFIG.toml and a folder of captioned images beside it."""
    rng = np.random.Generator(np.random.Philox(key=3))
    images = folder / "images"
    images.mkdir(parents=True)
    lines = ["file_name,text,shape"]
    for number in range(count):
        shape = ("bar", "box")[number % 2]
        pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        pixels[4:12, (7 if shape == "bar" else 4) : (9 if shape == "bar" else 12)] = 230
        Image.fromarray(pixels).save(images / f"{number:03d}.png")
        lines.append(f'{number:03d}.png,"a white {shape}, number {number % 2}",{shape}')
    (images / "metadata.csv").write_text("\n".join(lines) + "\n")
    path = folder / "config.toml"
    path.write_text(CONFIG.replace("KIND", kind))
    return path


def main() -> None:
    """CONFIG OUT LABEL AFTER: a process that kills itself in the middle of a run, or ends with it."""
    from undertone.core.progress import reporting
    from undertone_cli.commands.pretrain import pretrain

    config, out, label, after = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with reporting(Fatal(label, after, lambda: os.kill(os.getpid(), signal.SIGKILL))):
        pretrain(config, out, resume=out.exists(), device="cpu", threads=1)


if __name__ == "__main__":
    main()
