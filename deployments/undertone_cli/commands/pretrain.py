"""`undertone pretrain`: a base model of one's own from public images."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from undertone.core.durable import exclusively, write_durable
from undertone.core.progress import reporter, reporting
from undertone.errors import DataError, FolderError, PlanChanged
from undertone.models.devices import AUTO, choose
from undertone.pretraining.config import Config, DataTable, load_config
from undertone_cli.console import Bars, out, resumable

if TYPE_CHECKING:
    from undertone.pretraining.dataset import PublicSet

_SAMPLES, _CLASSES = 8, 64


def pretrain(config_file: Path, folder: Path, *, resume: bool = False, device: str = AUTO, threads: int = 0) -> Path:
    """Pre-train a model on public images and return its pipeline folder.

    Args:
        config_file: CONFIG.toml; `data.folder` in it is relative to it.
        folder: where everything is written; must not exist unless `resume`.
        resume: go on with a run that was interrupted, with the same configuration and the same images.
        device: "auto", or one torch device.
        threads: CPU threads, 0 for torch's own choice; a resumed run is bit-equal with the same number only.

    Raises:
        UndertoneError: bad input before anything is written, or another configuration than the folder's.
    """
    config = load_config(config_file)
    with exclusively(folder):
        return _pretrain(config_file, config, folder, resume, device, threads)


def _pretrain(config_file: Path, config: Config, folder: Path, resume: bool, device: str, threads: int) -> Path:
    kept = folder / "config.toml"
    if resume:
        _check_same(config_file, kept, folder)
    elif folder.exists():
        raise FolderError(f"{folder} exists already; choose another --out, or --resume to go on with it")
    import torch  # heavy: not for --help, nor for a wrong configuration

    from undertone.pretraining.pretrain import pretrain as train

    (chosen,) = choose(device)
    if threads:
        torch.set_num_threads(threads)
    data = _read(config, config_file.parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            shutil.copyfile(config_file, kept)
        _check_same_data(folder / "data.sha256", data)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None
    pipeline = train(config, data, folder, chosen)
    _draw_samples(pipeline, data, folder / "samples.png", chosen)
    return pipeline


def _read(config: Config, beside: Path) -> "PublicSet":
    """The images of the configuration, all in memory."""
    from undertone.pretraining.dataset import drawn_set

    table = config.data
    if table.folder is None:
        return drawn_set(config.pretrain.seed, table.images, table.size, os.cpu_count() or 1, table.kinds)
    return _read_folder(table, beside / table.folder)


def _read_folder(table: DataTable, root: Path) -> "PublicSet":
    """Every image of a folder, or an error that names those that cannot be read."""
    import numpy as np

    from undertone.core.captions import fill_caption
    from undertone.data.images import read_images
    from undertone.data.metadata import Problem
    from undertone.data.records import read_records, refuse
    from undertone.pretraining.dataset import PublicSet

    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder; data.folder is relative to the configuration: put images and metadata.csv there, "
            "or copy the configuration to where they are"
        )
    records = read_records(root, "record", None, table.caption)
    wanted = table.class_column
    if wanted and wanted not in records.records[0].columns:
        raise DataError(f'data.class_column: {records.source or records.root} has no column "{wanted}"')
    pixels, problems = [], []
    with reporter().task("reading images", len(records.records)) as progress:
        files = (record.file for record in records.records)
        for record, image in zip(records.records, read_images(records.root, files, table.size), strict=True):
            if isinstance(image, DataError):
                problems.append(Problem(records.place(record), str(image)))
            else:
                pixels.append(image)
            progress(1)
    refuse(problems)
    captions = [fill_caption(table.caption, "", record.columns) for record in records.records]
    classes = [record.columns[wanted] for record in records.records] if wanted else None
    return PublicSet(np.stack(pixels), captions, classes)


def _check_same(config_file: Path, kept: Path, folder: Path) -> None:
    if not kept.is_file():
        raise FolderError(f"{folder} is not a folder of `undertone pretrain` that can be resumed")
    if kept.read_bytes() != config_file.read_bytes():
        raise PlanChanged(
            f"{config_file} is not the configuration that {folder} was started with; restore it, or choose a new --out"
        )


def _check_same_data(path: Path, data: "PublicSet") -> None:
    digest = data.digest() + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != digest:
        raise PlanChanged(f"the images or captions are not those that {path.parent} was started with; restore them")
    if not path.exists():
        write_durable(path, digest.encode())


def _draw_samples(pipeline: Path, data: "PublicSet", path: Path, device: str) -> None:
    """A grid of samples: of the most frequent captions, of the classes, or of a base that is told nothing."""
    from collections import Counter

    from undertone.models.base import load_base
    from undertone.models.grid import save_grid
    from undertone.models.pinned import pin

    base = load_base(pin(str(pipeline)), device)
    frequent = [caption for caption, _ in Counter(data.captions).most_common(_SAMPLES)]
    prompts = {"class": list(base.labels)[:_CLASSES], "none": [""]}.get(base.pinned.kind, frequent)
    told = [prompt for prompt in prompts for _ in range(_SAMPLES)]
    seeds = list(range(_SAMPLES)) * len(prompts)
    with reporter().task("drawing samples", len(told)) as progress:
        images = base.sample(told, seeds, steps=20, guidance=2.0)
        progress(len(told))
    rows = [images[start : start + _SAMPLES] for start in range(0, len(told), _SAMPLES)]
    save_grid(path, dict(zip(prompts, rows, strict=True)))


@click.command("pretrain")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--device", default=AUTO, show_default=True, help='A torch device, such as "cpu" or "cuda:0".')
@click.option("--threads", default=0, type=click.IntRange(min=0), help="CPU threads; by default torch chooses.")
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted.")
def command(config: Path, folder: Path, device: str, threads: int, resume: bool) -> None:
    """Pre-train a small latent diffusion model on PUBLIC images as CONFIG.toml says.

    The images are a folder in the Hugging Face imagefolder convention (metadata.csv or .jsonl with file_name, a caption
    and perhaps a class), or drawn by Undertone itself. Nothing private may be in it: training is not private.
    OUT/pipeline is a stock diffusers folder with a model card, to be named as the base of a study. The UNet is told a
    caption (unet.kind = "text"), one of the data's classes ("class") or nothing ("none"); the last two may denoise
    pixels themselves (unet.denoises = "pixels" or "grey"). Without a folder, data.kinds says what is drawn: with
    kinds = ["letter"] the model has seen no digit (examples/pretrain-letters.toml).

    Example: undertone pretrain pretrain.toml --out runs/my-base, where pretrain.toml is examples/pretrain-folder.toml,
    copied to where your folder of images is
    """
    again = ["undertone", "pretrain", str(config), "--out", str(folder), "--resume"]
    with resumable(folder, again), Bars() as bars, reporting(bars):
        pipeline = pretrain(config, folder, resume=resume, device=device, threads=threads)
    out.print(f"\ndone in {folder}", style="bold", markup=False)
    out.print(f"  the model: {pipeline}", soft_wrap=True, markup=False, highlight=False)
    out.print(f"  watch it: tensorboard --logdir {folder / 'checkpoints' / 'events'}", soft_wrap=True, markup=False)
