"""`undertone simulate`: a whole study on one machine, with the programs that hospitals run."""

import os
import re
import shutil
from pathlib import Path

import click

from undertone.errors import DataError, FolderError, InputError, PlanChanged, StudyError
from undertone.keys import public_hex
from undertone.models.pinned import pin
from undertone.plan import Plan
from undertone.privacy.entropy import OsEntropy
from undertone.progress import reporter, reporting
from undertone.resolve import refuse_noise, resolve
from undertone.statement import SIMULATION
from undertone.study import SITE_NAME, Study, load_study
from undertone_cli.console import Bars, out, table
from undertone_cli.diagnostics import diagnose
from undertone_cli.inprocess import run_inprocess
from undertone_cli.plan import describe
from undertone_cli.split import SiteData, split
from undertone_client.app import app as client_app
from undertone_client.records import bad_images, refuse, write_metadata
from undertone_client.registration import register
from undertone_client.site import NodeConfig, Policy, create_site
from undertone_server.app import app as server_app
from undertone_server.run import RunFolder, refuse_existing


def simulate(
    study_file: Path,
    data: Path,
    run_folder: Path,
    *,
    split_by: str | None = None,
    sites: int | None = None,
    holdout: float = 0.0,
    resume: bool = False,
) -> Path:
    """Run a study with all its sites in this process and return its release folder.

    Args:
        study_file: STUDY.toml.
        data: a folder of images with metadata, or a folder of such folders, one for each site.
        run_folder: where RUN is written; must not exist unless `resume`.
        split_by: the metadata column that names the site.
        sites: into how many sites to split the folder, where no column says.
        holdout: the fraction of units kept apart; with it, diagnostics.json compares distances.
        resume: go on with a RUN that was interrupted.

    Raises:
        UndertoneError: bad input before anything is written; refusals at any time, nothing lost.
    """
    study = load_study(study_file)
    if resume:
        _check_same_study(study_file, run_folder)
    else:
        _prepare(study, study_file, data, run_folder, split_by, sites, holdout)
    run = RunFolder(run_folder)
    if not run.release.exists():
        run_inprocess(server_app, client_app, run_folder.resolve(), sorted((run_folder / "sites").iterdir()))
    if (run_folder / "holdout").exists() and not (run_folder / "diagnostics.json").exists():
        diagnose(run_folder)
    return run.release


def _prepare(
    study: Study,
    study_file: Path,
    data: Path,
    folder: Path,
    split_by: str | None,
    sites: int | None,
    holdout: float,
) -> None:
    """Check everything, then write RUN whole: plan, signed, and a SITE_DIR for each site."""
    refuse_existing(folder, "choose another --out, or --resume to go on with it")
    if not 0 <= holdout < 1:
        raise StudyError(f"--holdout {holdout} must be at least 0 and below 1")
    shares = split(study, data, split_by, sites, holdout)
    _check_roster(study, shares)
    _check_all_images(study, shares)
    filled = {site: round_units(len(share.training.units())) for site, share in shares.items()}
    plan = resolve(study, simulated_units=filled)
    table(f"plan of {plan.study}", ["", ""], describe(plan))
    refuse_noise(plan)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_run(part, plan, study, study_file, shares)
        part.rename(folder)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def round_units(count: int) -> int:
    """A public round figure N_i for a simulated site: the count cut to tens, to two digits from 1,000 on."""
    step: int = 10 ** max(len(str(count)) - 2, 1)
    return count // step * step or count


def _write_run(part: Path, plan: Plan, study: Study, study_file: Path, shares: dict[str, SiteData]) -> None:
    run = RunFolder.create(part, plan, {"setting": SIMULATION, "engine": "inprocess"})
    shutil.copyfile(study_file, part / "study.toml")
    policy = Policy(coordinator=public_hex(run.key()), approved=[plan.digest])
    for site, share in shares.items():
        config = NodeConfig(
            site=site,
            data=str(share.training.root),
            metadata="metadata.csv",
            keep_rows=bool(share.holdout.records),
        )
        folder = create_site(part / "sites" / site, config, policy, OsEntropy())
        write_metadata(part / "sites" / site / "metadata.csv", share.training.records)
        register(folder, plan)  # from here on a bad record is a zero row (PRIVACY 17)
        if share.holdout.records:
            (part / "holdout" / site).mkdir(parents=True)
            write_metadata(part / "holdout" / site / "metadata.csv", share.holdout.records)


def _check_same_study(study_file: Path, folder: Path) -> None:
    kept = folder / "study.toml"
    if not kept.is_file():
        raise FolderError(f"{folder} is not a RUN folder that can be resumed")
    if kept.read_bytes() != study_file.read_bytes():
        raise PlanChanged(
            f"{study_file} is not the study that {folder} was started with; restore it, or start a new RUN"
        )


def _check_roster(study: Study, shares: dict[str, SiteData]) -> None:
    if study.cohort.units and set(study.cohort.units) != set(shares):
        raise StudyError(
            f"cohort.units names {', '.join(sorted(study.cohort.units))}; the data hold {', '.join(sorted(shares))}"
        )
    for site in shares:
        if not re.fullmatch(SITE_NAME, site):
            raise DataError(f'"{site}" cannot name a site: use small letters, digits, - and _, at most 63')


def _check_all_images(study: Study, shares: dict[str, SiteData]) -> None:
    size = pin(study.model.base, study.model.revision).image_size
    tables = [half for share in shares.values() for half in (share.training, share.holdout)]
    with reporter().task("checking images", sum(len(half.records) for half in tables)) as progress:
        refuse([problem for half in tables for problem in bad_images(half, size, progress)])


@click.command("simulate")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Images with metadata.csv or .jsonl.")
@click.option("--split-by", metavar="COLUMN", help="The metadata column that names each image's site.")
@click.option("--sites", type=click.IntRange(min=2), help="Split into this many equal sites instead.")
@click.option("--holdout", type=float, default=0.0, show_default=True, help="Fraction of units kept for diagnostics.")
@click.option("--out", "run_folder", type=click.Path(path_type=Path), required=True, help="The RUN folder to write.")
@click.option("--engine", type=click.Choice(["inprocess"]), default="inprocess", show_default=True)
@click.option("--resume", is_flag=True, help="Go on with a RUN that was interrupted.")
def command(
    study: Path,
    data: Path,
    split_by: str | None,
    sites: int | None,
    holdout: float,
    run_folder: Path,
    engine: str,
    resume: bool,
) -> None:
    """Run STUDY.toml with all its sites on this machine; --resume takes data and split from RUN.

    --data is a folder in the Hugging Face imagefolder convention (metadata.csv or .jsonl with file_name and any
    columns), or a folder of such folders, one for each site. Each site becomes a node with a folder of its own
    under RUN/sites; RUN/release is what would leave the study.

    Example: undertone simulate study.toml --data images --split-by site --holdout 0.3 --out runs/first
    """
    if split_by and sites:
        raise InputError("--split-by and --sites exclude each other")
    with Bars() as bars, reporting(bars):
        release = simulate(study, data, run_folder, split_by=split_by, sites=sites, holdout=holdout, resume=resume)
    show_result(run_folder, release)


def show_result(run_folder: Path, release: Path) -> None:
    """Say where to look."""
    lines = [
        ("pictures before and after", release / "samples.png"),
        ("what it reveals", release / "privacy.json"),
        ("check it", f"undertone verify {release}"),
        ("make images", f'undertone generate {release} --prompt "..." -n 8 --out images'),
        ("watch it", f"tensorboard --logdir {run_folder / 'events'}"),
    ]
    if (run_folder / "diagnostics.json").exists():
        lines.append(("diagnostics (simulation only)", run_folder / "diagnostics.json"))
    out.print(f"\ndone in {os.fspath(run_folder)}", style="bold", markup=False)
    for name, where in lines:  # not a table: a folded path cannot be copied
        out.print(f"  {name}: {where}", soft_wrap=True, markup=False, highlight=False)
