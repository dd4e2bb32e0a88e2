"""`undertone export`: a release as a whole pipeline, for programs that load nothing but pipelines."""

import shutil
from pathlib import Path

import click

from undertone.core.durable import exclusively, part_of
from undertone.core.progress import reporting
from undertone.errors import FolderError
from undertone.methods.weights import format_in
from undertone.models.file_metadata import name_base
from undertone_cli.console import Bars, out
from undertone_cli.released import BASE_HELP, COORDINATOR_HELP, adapted_base, coordinator_key, released_plan, say_signer


def export(release: Path, folder: Path, base_copy: Path | None = None, coordinator: str | None = None) -> Path:
    """Write base and release together as a pipeline in the diffusers layout.

    Args:
        release: a release folder.
        folder: where to write; must not exist. `unet/` in it is the full adapted UNet.
        base_copy: the base's folder on this machine, if not where the plan says.
        coordinator: the public key that must have signed the release.

    Raises:
        UndertoneError: the release or its base model is not what it should be, or the folder exists.
    """
    with exclusively(folder):
        return _export(release, folder, base_copy, coordinator)


def _export(release: Path, folder: Path, base_copy: Path | None, coordinator: str | None) -> Path:
    plan = released_plan(release, folder, coordinator)
    base = adapted_base(release, plan, copy=base_copy)
    format_in(release).fuse(base)
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        base.pipeline.save_pretrained(part, safe_serialization=True)
        for weights in sorted(part.rglob("*.safetensors")):
            name_base(weights, plan.model.base)
        for name in ("plan.json", "privacy.json", "README.md"):
            shutil.copyfile(release / name, part / name)
        part.rename(folder)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


@click.command("export")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder for the pipeline.")
@click.option("--base", "base_copy", type=click.Path(path_type=Path), help=BASE_HELP)
@click.option("--coordinator", metavar="KEY", callback=coordinator_key, help=COORDINATOR_HELP)
def command(release: Path, folder: Path, base_copy: Path | None, coordinator: str | None) -> None:
    """Write a RELEASE and its base model together as one pipeline, in float32.

    `StableDiffusionPipeline.from_pretrained(FOLDER)` loads it; FOLDER/unet is the full UNet. This reveals no more than
    the release does; privacy.json goes with it.
    """
    with Bars() as bars, reporting(bars):
        export(release, folder, base_copy, coordinator)
    kind = format_in(release).describe().kind
    out.print(f"pipeline in {folder}: the base with {kind}", highlight=False, markup=False)
    say_signer(coordinator)
