"""`undertone generate`: images from a release, marked as synthetic."""

import csv
import secrets
from pathlib import Path

import click
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from undertone.errors import FolderError, InputError
from undertone.models.devices import AUTO, choose
from undertone.models.grid import save_grid
from undertone.models.pinned import check_pins, pin
from undertone.plan import Plan
from undertone.progress import reporter, reporting
from undertone_cli.console import Bars, out

_BATCH = 16


def generate(
    release: Path,
    prompt: str,
    count: int,
    folder: Path,
    *,
    steps: int = 25,
    guidance: float = 1.0,
    seed: int | None = None,
    device: str = AUTO,
) -> list[Path]:
    """Make `count` images of one prompt with a release and write them as an imagefolder.

    Args:
        release: a release folder.
        prompt: what to draw; the release's token stands for what was learned.
        count: how many images.
        folder: where to write; must not exist.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 is none.
        seed: the first image's public seed; by default a fresh one, written to metadata.csv.
        device: "auto", or one torch device.

    Raises:
        UndertoneError: the release or its base model is not what it should be, or the folder exists.
    """
    try:
        plan = Plan.from_bytes((release / "plan.json").read_bytes())
    except OSError:
        raise FolderError(f"{release} is not a release folder: it has no plan.json") from None
    if folder.exists():
        raise FolderError(f"{folder} exists already; choose another --out")
    if count < 1:
        raise InputError("-n must be at least 1")
    from undertone.models.adapted import attach, read_weights  # torch: not for --help, nor for a wrong folder
    from undertone.models.base import load_base

    pinned = pin(plan.model.base, plan.model.revision)
    check_pins(pinned, plan.model.files)
    base = load_base(pinned, choose(device)[0], keep_safety_checker=True)
    attach(base, read_weights(release))
    first = secrets.randbits(31) if seed is None else seed
    seeds, images = [first + index for index in range(count)], []
    with reporter().task("drawing", count) as progress:
        for start in range(0, count, _BATCH):
            batch = seeds[start : start + _BATCH]
            images += base.sample([prompt] * len(batch), batch, steps=steps, guidance=guidance)
            progress(len(batch))
    try:
        return _write(folder, images, prompt, seeds, plan)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None


def _write(folder: Path, images: list[Image.Image], prompt: str, seeds: list[int], plan: Plan) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "prompt", "seed", "synthetic"])
        for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            marks = PngInfo()
            marks.add_text("Synthetic", "yes; made by Undertone")
            marks.add_text("Description", prompt)
            marks.add_text("Undertone-Plan", plan.digest)
            path = folder / f"{number:05d}.png"
            image.save(path, pnginfo=marks)
            paths.append(path)
            writer.writerow([path.name, prompt, seed, "yes"])
    save_grid(folder / "grid.png", {prompt: images[:8]})
    return paths


@click.command("generate")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help='What to draw, with the release\'s token, as in "a <private>".')
@click.option("-n", "count", default=8, show_default=True, help="How many images.")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder for the images.")
@click.option("--steps", default=25, show_default=True, type=click.IntRange(min=1), help="Denoising steps.")
@click.option("--guidance", default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--seed", type=click.IntRange(0, 2**62), help="Public seed of the first image; fresh by default.")
@click.option("--device", default=AUTO, show_default=True, help='A torch device, such as "cpu" or "cuda:0".')
def command(
    release: Path, prompt: str, count: int, folder: Path, steps: int, guidance: float, seed: int | None, device: str
) -> None:
    """Make images with a RELEASE; each PNG says inside that it is synthetic.

    The base model is found again by the plan in the release and checked byte for byte. If it has a safety checker,
    the checker stays on.
    """
    with Bars() as bars, reporting(bars):
        paths = generate(release, prompt, count, folder, steps=steps, guidance=guidance, seed=seed, device=device)
    out.print(f"{len(paths)} images in {folder}; look at {folder / 'grid.png'}", highlight=False, markup=False)
