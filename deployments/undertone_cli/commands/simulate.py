"""`undertone simulate`: a whole study on one machine, with the programs that hospitals run."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from undertone.core.durable import exclusively, part_of
from undertone.core.keys import public_hex
from undertone.core.progress import reporter, reporting
from undertone.core.unit import SITE_NAME
from undertone.data.records import bad_images, refuse, write_metadata
from undertone.errors import DataError, FolderError, InputError, PlanChanged, StudyError
from undertone.models.devices import AUTO, Device, choose
from undertone.models.pinned import pin
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Receipt
from undertone.release.start import start_of
from undertone.release.statement import SIMULATION
from undertone.study.claim import check_claim
from undertone.study.clip_check import check_clip, refuse_clip
from undertone.study.plan import Plan
from undertone.study.resolve import refuse_noise, resolved
from undertone.study.schema import Study, load_study
from undertone_cli.ancestry import earlier_charges
from undertone_cli.commands.plan import show
from undertone_cli.console import Bars, lines, out, resumable
from undertone_cli.engines.choice import ENGINES, IN_PROCESS, check_engine, run_on
from undertone_cli.provisioning import COORDINATOR, OPERATOR, federate
from undertone_cli.site_logs import quoting_sites
from undertone_cli.split import SiteData, split
from undertone_client.approval.unattended import approve_unattended, carry_over, give_data_set, narrowest_policy
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import SiteDir, create_site
from undertone_server.run_folder import RunFolder, refuse_existing


@dataclass(frozen=True)
class Machine:
    """How a simulation runs; none of it enters the plan."""

    engine: str
    device: Device
    ids_as_written: bool = False


@dataclass(frozen=True)
class _Start:
    """The release that a simulation starts from, and what each site was charged for it."""

    folder: Path | None
    charges: Mapping[str, Sequence[Receipt]]


def simulate(
    study_file: Path,
    data: Path | None,
    run_folder: Path,
    *,
    split_by: str | None = None,
    sites: int | None = None,
    holdout: float = 0.0,
    metadata: str | None = None,
    ids_as_written: bool = False,
    resume: bool = False,
    engine: str = IN_PROCESS,
    device: Device = AUTO,
) -> Path:
    """Run a study with all its sites on this machine and return its release folder.

    Args:
        study_file: STUDY.toml.
        data: a folder of images with metadata, or a folder of such folders, one for each site;
            not needed with `resume`.
        run_folder: where RUN is written; must not exist unless `resume`.
        split_by: the metadata column that names the site.
        sites: into how many sites to split the folder, where no column says.
        holdout: the fraction of units kept apart; with it, diagnostics.json compares distances.
        metadata: the name of the metadata file, where a folder has both kinds.
        ids_as_written: whether unit ids that look alike are different people, on purpose.
        resume: go on with a RUN that was interrupted.
        engine: "inprocess", or "ray" for many sites at once; a RUN may go on with another than it began with.
        device: where the sites compute: "auto", or one or several torch devices; with `resume`, as RUN has it.

    Raises:
        UndertoneError: bad input before anything is written; refusals at any time, nothing lost.
    """
    check_engine(engine)
    study = load_study(study_file)
    with exclusively(run_folder):
        if resume:
            _check_same_study(study_file, run_folder)
            if data or split_by or sites or holdout:
                reporter().line(f"--resume: data, split and held-out units are those of {run_folder}")
        else:
            if data is None:
                raise InputError("a new RUN needs --data, the folder of images")
            refuse_existing(run_folder, "choose another --out, or --resume to go on with it")
            if device != AUTO:
                choose(device)  # before anything is written
            shares = split(study, data, split_by, sites, holdout, metadata=metadata, ids_as_written=ids_as_written)
            _prepare(study, study_file, run_folder, shares, Machine(engine, device, ids_as_written))
        run = RunFolder(run_folder)
        if not run.release.exists():
            with quoting_sites(run_folder / "sites"):
                run_on(engine, run_folder.resolve(), sorted((run_folder.resolve() / "sites").iterdir()))
        if (run_folder / "holdout").exists() and not (run_folder / "diagnostics.json").exists():
            from undertone_cli.diagnostics import diagnose  # torch: only where distances are asked for

            diagnose(run_folder)
        return run.release


def _prepare(study: Study, study_file: Path, folder: Path, shares: dict[str, SiteData], machine: Machine) -> None:
    """Check everything, then write RUN whole: plan, signed, and a SITE_DIR for each site."""
    _check_roster(study, shares)
    _check_all_images(study, shares)
    filled = {site: round_units(len(share.training.units())) for site, share in shares.items()}
    found = resolved(study, simulated_units=filled, start=start_of(study))
    plan = found.plan
    check_claim(plan)
    check = check_clip(found)
    show(found, check)
    lines([("digest", plan.digest)])
    refuse_noise(plan, found.base)
    refuse_clip(check, allow_noisy=plan.privacy.allow_noisy)
    start = None if study.model.start is None else Path(study.model.start)
    earlier = earlier_charges(plan, start, shares)
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_run(part, plan, study_file, shares, machine, _Start(start, earlier))
        part.rename(folder)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def round_units(count: int) -> int:
    """A public round figure N_i for a simulated site: from 10 on the count rounded up, to tens or to two digits."""
    step: int = 10 ** max(len(str(count)) - 2, 1)
    return count if count < step else -(-count // step) * step


def _write_run(
    part: Path, plan: Plan, study_file: Path, shares: dict[str, SiteData], machine: Machine, start: _Start
) -> None:
    run = RunFolder.create(part, plan, {"setting": SIMULATION, "engine": machine.engine}, start=start.folder)
    shutil.copyfile(study_file, part / "study.toml")
    policy = narrowest_policy(plan, COORDINATOR, public_hex(run.key()))
    for site, share in shares.items():
        config = NodeConfig(
            site=site,
            device=machine.device if isinstance(machine.device, str) else list(machine.device),
            keep_rows=bool(share.holdout.records) and plan.privacy.rounds == 1,  # for the diagnostics' mean
        )
        created = create_site(part / "sites" / site, config, policy, OsEntropy())
        AuditLog(created.folder).append("site made", key=public_hex(created.identity()))
        write_metadata(created.folder / "metadata.csv", share.training.records)
        give_data_set(created, plan, share.training, ids_as_written=machine.ids_as_written)
        if site in start.charges:
            carry_over(created, plan, start.charges[site])
        if share.holdout.records:
            (part / "holdout" / site).mkdir(parents=True)
            write_metadata(part / "holdout" / site / "metadata.csv", share.holdout.records)
    folders = [part / "sites" / site for site in shares]
    federate(run, folders)
    for folder in folders:
        approve_unattended(SiteDir(folder), plan, run.signature(), OPERATOR, start.folder)


def _check_same_study(study_file: Path, folder: Path) -> None:
    kept = folder / "study.toml"
    if not kept.is_file():
        raise FolderError(f"{folder} is not a RUN folder that can be resumed")
    if kept.read_bytes() != study_file.read_bytes():
        raise PlanChanged(
            f"{study_file} is not the study that {folder} was started with; restore it, or start a new RUN"
        )


def _check_roster(study: Study, shares: dict[str, SiteData]) -> None:
    named, key = study.cohort.figures, "units" if study.cohort.units else "patients"
    if named and set(named) != set(shares):
        raise StudyError(f"cohort.{key} names {', '.join(sorted(named))}; the data hold {', '.join(sorted(shares))}")
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
@click.option("--data", type=click.Path(path_type=Path), help="Images with metadata.csv or .jsonl; for a new RUN.")
@click.option("--split-by", metavar="COLUMN", help="The metadata column that names each image's site.")
@click.option("--sites", type=click.IntRange(min=2), help="Split into this many equal sites instead.")
@click.option("--holdout", type=float, default=0.0, show_default=True, help="Fraction of units kept for diagnostics.")
@click.option("--metadata", metavar="NAME", help="The metadata file, where a folder has metadata.csv and .jsonl.")
@click.option("--ids-as-written", is_flag=True, help="Unit ids that look alike are different people.")
@click.option("--out", "run_folder", type=click.Path(path_type=Path), required=True, help="The RUN folder to write.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default=IN_PROCESS, show_default=True, help="ray: many sites at once."
)
@click.option("--device", multiple=True, help='Where sites compute, such as "cuda:0"; several times for several.')
@click.option("--resume", is_flag=True, help="Go on with a RUN that was interrupted.")
def command(
    study: Path,
    data: Path | None,
    split_by: str | None,
    sites: int | None,
    holdout: float,
    metadata: str | None,
    ids_as_written: bool,
    run_folder: Path,
    engine: str,
    device: tuple[str, ...],
    resume: bool,
) -> None:
    """Run STUDY.toml with all its sites on this machine; --resume takes data and split from RUN.

    --data is a folder in the Hugging Face imagefolder convention (metadata.csv or .jsonl with file_name and any
    columns), or a folder of such folders, one for each site. Folders named train, validation, test are training data
    and hold-out instead. Each site becomes a node with a folder of its own
    under RUN/sites; RUN/release is what would leave the study.

    Example: undertone simulate study.toml --data images --split-by site --holdout 0.3 --out runs/first
    """
    if split_by and sites:
        raise InputError("--split-by and --sites exclude each other")
    if device and resume:
        raise InputError("--device is for a new RUN; with --resume, change device in RUN/sites/*/node.toml")
    again = ["undertone", "simulate", str(study), "--out", str(run_folder), "--resume"]
    with resumable(run_folder, again), Bars() as bars, reporting(bars):
        release = simulate(
            study,
            data,
            run_folder,
            split_by=split_by,
            sites=sites,
            holdout=holdout,
            metadata=metadata,
            ids_as_written=ids_as_written,
            resume=resume,
            engine=engine,
            device=device or AUTO,
        )
    show_result(run_folder, release)


def show_result(run_folder: Path, release: Path) -> None:
    """Say where to look."""
    where = [
        ("pictures before and after", release / "samples.png"),
        ("what it reveals", release / "privacy.json"),
        ("check it", f"undertone verify {release} --coordinator {public_hex(RunFolder(run_folder).key())}"),
        ("make images", f'undertone generate {release} --prompt "..." -n 8 --out images'),
        ("watch it", f"tensorboard --logdir {run_folder / 'events'}"),
    ]
    if (run_folder / "diagnostics.json").exists():
        where.append(("diagnostics (simulation only)", run_folder / "diagnostics.json"))
    out.print(f"\ndone in {os.fspath(run_folder)}", style="bold", markup=False)
    lines(where)
