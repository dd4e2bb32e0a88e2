"""`undertone export`: a release as a whole pipeline, or as another program's file."""

import shutil
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save

from undertone.core.bounds import STATEMENT_BYTES
from undertone.core.durable import exclusively, part_of, write_durable
from undertone.core.progress import reporting
from undertone.errors import FolderError, InputError
from undertone.methods.weights import check_weights, format_in, read_weights
from undertone.models.file_metadata import name_base, named_for
from undertone.release.manifest import read_part
from undertone_cli.console import Bars, out
from undertone_cli.released import BASE_HELP, COORDINATOR_HELP, adapted_base, coordinator_key, released_plan, say_signer

_PIPELINE, _SUFFIX = "pipeline", ".safetensors"
_FORMATS = (_PIPELINE, "kohya")


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


def export_file(release: Path, file: Path, program: str, coordinator: str | None = None) -> Path:
    """Write a release's weights as one file of another program's kind; the base is not needed.

    The plan's digest and the whole of privacy.json stand in the file's metadata.

    Args:
        release: a release folder.
        file: where to write, NAME.safetensors; must not exist.
        program: whose kind, such as "kohya".
        coordinator: the public key that must have signed the release.

    Raises:
        InputError: a release of this kind makes no such file, or the file's name does not end as it must.
        UndertoneError: the release is not what it should be, or the file exists.
    """
    if file.suffix != _SUFFIX:
        raise InputError(f"--format {program} writes one file: give --out a name that ends in {_SUFFIX}")
    with exclusively(file):
        plan = released_plan(release, file, coordinator)
        check_weights(release, plan.method)
        kind = format_in(release)
        found = kind.respelled(program, read_weights(release))
        if found is None:
            raise InputError(
                f"{release} holds {kind.describe().kind}, which no file of {program} holds: {_otherwise()}"
            )
        statement = read_part(release, "privacy.json", STATEMENT_BYTES).decode("utf-8")
        said = {**found.metadata, "undertone_plan": plan.digest, "undertone_privacy": statement}
        tensors = {name: np.array(tensor, order="C") for name, tensor in found.tensors.items()}
        write_durable(file, named_for(save(tensors, said), plan.model.base))
    return file


def _otherwise() -> str:
    return "leave --format out, and --out gets a whole pipeline"


@click.command("export")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(_FORMATS), default=_PIPELINE, show_default=True, help="See above.")
@click.option(
    "--out",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    help="A new folder for the pipeline, or a new file NAME.safetensors.",
)
@click.option("--base", "base_copy", type=click.Path(path_type=Path), help=f"{BASE_HELP} Of pipelines alone.")
@click.option("--coordinator", metavar="KEY", callback=coordinator_key, help=COORDINATOR_HELP)
def command(release: Path, form: str, target: Path, base_copy: Path | None, coordinator: str | None) -> None:
    """Write a RELEASE for other programs. It reveals no more than the release does; privacy.json goes with it.

    \b
    pipeline   base model and release together, float32, any release but prototypes: a folder
               in the diffusers layout, for StableDiffusionPipeline.from_pretrained(FOLDER)
               where the base is told a text; FOLDER/unet is the full UNet
    kohya      LoRA adapters alone, as kohya-ss's scripts write them: one file for
               AUTOMATIC1111, ComfyUI, InvokeAI and others, to be used with the
               same base model; put it where the program keeps its LoRA files

    \b
      undertone export runs/x/release --out x-pipeline
      undertone export runs/x/release --format kohya --out x.safetensors
    """  # noqa: D301 - click reads the character
    if form != _PIPELINE:
        if base_copy is not None:
            raise InputError(f"--format {form} needs no base model; leave --base out")
        export_file(release, target, form, coordinator)
        out.print(f"{form} file {target}: {_kind(release)}, for the same base model", highlight=False, markup=False)
    else:
        with Bars() as bars, reporting(bars):
            export(release, target, base_copy, coordinator)
        out.print(f"pipeline in {target}: the base with {_kind(release)}", highlight=False, markup=False)
    say_signer(coordinator)


def _kind(release: Path) -> str:
    return format_in(release).describe().kind
