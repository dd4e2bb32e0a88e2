"""`undertone generate`: images from a release, marked as synthetic."""

import csv
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from undertone.core.durable import exclusively
from undertone.core.progress import reporter, reporting
from undertone.errors import FolderError, InputError
from undertone.models.devices import AUTO, choose
from undertone.models.grid import save_grid
from undertone.study.plan import Plan
from undertone.study.planned import class_prompts
from undertone_cli.console import Bars, out
from undertone_cli.released import BASE_HELP, COORDINATOR_HELP, adapted_base, coordinator_key, released_plan, say_signer

_BATCH = 16
_SAY = "say what to draw: --prompt TEXT, or --class LABEL TEXT for each class"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,62}")


@dataclass(frozen=True)
class _Wanted:
    """One image to make; the label "" stands for none."""

    label: str
    prompt: str
    seed: int

    def file(self, number: int) -> str:
        return f"{self.label}/{number:05d}.png" if self.label else f"{number:05d}.png"


def generate(
    release: Path,
    prompt: str | Mapping[str, str] | None,
    count: int,
    folder: Path,
    *,
    steps: int = 25,
    guidance: float = 1.0,
    seed: int | None = None,
    device: str = AUTO,
    base_copy: Path | None = None,
    coordinator: str | None = None,
) -> list[Path]:
    """Make `count` images of each prompt with a release and write them as an imagefolder.

    Args:
        release: a release folder.
        prompt: what to draw; or label -> what to draw, and each label gets a folder of its own, as a classifier's
            training reads them. A release's token, if it has one, stands for what was learned. None: each class of
            the release's plan, by its own prompt.
        count: how many images of each prompt.
        folder: where to write; must not exist.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 is none.
        seed: the first image's public seed; by default a fresh one, written to metadata.csv.
        device: "auto", or one torch device.
        base_copy: the base's folder on this machine, if not where the plan says.
        coordinator: the public key that must have signed the release.

    Raises:
        UndertoneError: the release or its base model is not what it should be, or the folder exists or is
            another command's.
    """
    if count < 1:
        raise InputError("-n must be at least 1")
    with exclusively(folder):
        plan = released_plan(release, folder, coordinator)
        given = _of_plan(plan) if prompt is None else prompt
        prompts = {"": given} if isinstance(given, str) else dict(given)
        _check_labels(prompts)
        base = adapted_base(release, plan, choose(device)[0], base_copy)
        first = secrets.randbits(31) if seed is None else seed
        labelled = [(label, text) for label, text in prompts.items() for _ in range(count)]
        wanted = [_Wanted(label, text, first + index) for index, (label, text) in enumerate(labelled)]
        images: list[Image.Image] = []
        with reporter().task("drawing", len(wanted)) as progress:
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                texts, seeds = [one.prompt for one in batch], [one.seed for one in batch]
                images += base.sample(texts, seeds, steps=steps, guidance=guidance)
                progress(len(batch))
        try:
            return _write(folder, images, wanted, plan)
        except OSError as error:
            raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None


def _of_plan(plan: Plan) -> dict[str, str]:
    """Class -> its prompt, of a plan with classes."""
    found = {name: after for name, (_, after) in class_prompts(plan).items()}
    if set(found) == {""}:
        raise InputError(_SAY)
    return found


def _check_labels(prompts: Mapping[str, str]) -> None:
    if not prompts:
        raise InputError(_SAY)
    for label in prompts:
        if len(prompts) + len(label) > 1 and not _LABEL.fullmatch(label):
            raise InputError(f'"{label}" cannot name a folder: use letters, digits, spaces, - and _, at most 63')


def _write(folder: Path, images: list[Image.Image], wanted: list[_Wanted], plan: Plan) -> list[Path]:
    folder.mkdir(parents=True)
    labels = list(dict.fromkeys(one.label for one in wanted if one.label))
    for label in labels:
        (folder / label).mkdir()
    paths = []
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", *(["label"] if labels else []), "prompt", "seed", "synthetic"])
        for number, (image, one) in enumerate(zip(images, wanted, strict=True)):
            marks = PngInfo()
            marks.add_text("Synthetic", "yes; made by Undertone")
            marks.add_text("Description", one.prompt)
            marks.add_text("Undertone-Plan", plan.digest)
            path = folder / one.file(number)
            image.save(path, pnginfo=marks)
            paths.append(path)
            writer.writerow([one.file(number), *([one.label] if labels else []), one.prompt, one.seed, "yes"])
    if not labels:  # beside folders of classes a grid would be read as one more image
        save_grid(folder / "grid.png", {wanted[0].prompt: images[:8]})
    return paths


@click.command("generate")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--prompt", help='What to draw, with the release\'s token if it has one, as in "a <private>".')
@click.option(
    "--class",
    "classes",
    nargs=2,
    multiple=True,
    metavar="LABEL TEXT",
    help="A class and what to draw for it, once for each class; each gets a folder of its own.",
)
@click.option("-n", "count", default=8, show_default=True, help="How many images of each prompt.")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder for the images.")
@click.option("--steps", default=25, show_default=True, type=click.IntRange(min=1), help="Denoising steps.")
@click.option("--guidance", default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--seed", type=click.IntRange(0, 2**62), help="Public seed of the first image; fresh by default.")
@click.option("--device", default=AUTO, show_default=True, help='A torch device, such as "cpu" or "cuda:0".')
@click.option("--base", "base_copy", type=click.Path(path_type=Path), help=BASE_HELP)
@click.option("--coordinator", metavar="KEY", callback=coordinator_key, help=COORDINATOR_HELP)
def command(
    release: Path,
    prompt: str | None,
    classes: tuple[tuple[str, str], ...],
    count: int,
    folder: Path,
    steps: int,
    guidance: float,
    seed: int | None,
    device: str,
    base_copy: Path | None,
    coordinator: str | None,
) -> None:
    """Make images with a RELEASE; each PNG says inside that it is synthetic.

    The manifest is checked first: a file that is not the one that was signed is refused. The base model is found
    again by the plan in the release, or where --base says, and checked byte for byte. If it has a safety checker, the
    checker stays on.

    Without --prompt and --class: images of each class of the release's plan, where it has classes.
    """
    if prompt is not None and classes:
        raise InputError(f"{_SAY}, not both")
    with Bars() as bars, reporting(bars):
        paths = generate(
            release,
            dict(classes) or prompt,
            count,
            folder,
            steps=steps,
            guidance=guidance,
            seed=seed,
            device=device,
            base_copy=base_copy,
            coordinator=coordinator,
        )
    look = folder if prompt is None else folder / "grid.png"
    out.print(f"{len(paths)} images in {folder}; look at {look}", highlight=False, markup=False)
    say_signer(coordinator)
