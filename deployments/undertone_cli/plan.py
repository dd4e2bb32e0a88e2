"""`undertone plan`: everything a study will do and cost, before it does."""

from pathlib import Path

import click

from undertone.plan import Plan
from undertone.progress import reporting
from undertone.resolve import refuse_noise, resolve, units_for_signal
from undertone.study import load_study
from undertone_cli.console import Bars, out, table


def describe(plan: Plan) -> list[tuple[str, str]]:
    """The rows that `plan` prints: name and value."""
    privacy, grid, total = plan.privacy, plan.grid, sum(plan.cohort.units.values())
    clip = grid.clip_units / grid.scale
    return [
        ("digest", plan.digest),
        (
            "method",
            f"{plan.method.name}, {plan.method.dimension} values, layout {plan.method.layout_digest[:8]}",
        ),
        ("base model", plan.model.base + (f" at {plan.model.revision}" if plan.model.revision else "")),
        ("unit", f"{privacy.unit}, {privacy.adjacency}"),
        (
            "units",
            ", ".join(f"{site} {count}" for site, count in plan.cohort.units.items()) + f" ({total} in all)",
        ),
        ("epsilon (PLD, the claim)", f"{privacy.epsilon:.6f} at delta {privacy.delta:g}"),
        ("epsilon (RDP)", f"{privacy.epsilon_rdp:.6f}"),
        ("clip norm C", f"{clip:.6g} (from {privacy.clip_origin})"),
        ("sigma", f"{privacy.sigma} grid units = {privacy.sigma / privacy.sensitivity:.4f} x Delta"),
        ("sensitivity Delta", f"{privacy.sensitivity} grid units"),
        ("scale s", f"{grid.scale} grid units per 1.0"),
        ("site clamp B", f"{grid.site_clamp} grid units"),
        ("sampling rate p", f"{privacy.sampling_rate:g}"),
        ("rounds, attempts", f"{privacy.rounds}, at most {privacy.max_attempts}"),
        ("sites needed", f"{plan.quorum} of {len(plan.cohort.units)}"),
        ("aggregation", _aggregation(plan)),
        (
            "noise-to-signal",
            f"{privacy.noise_to_signal:.2f}; {units_for_signal(plan)} units would bring it to 1",
        ),
    ]


def _aggregation(plan: Plan) -> str:
    """Who sees what, and how many sites may leave."""
    aggregation, sites = plan.aggregation, len(plan.cohort.units)
    if aggregation.mode == "plain":
        return "plain: the coordinator sees each site's sum"
    bears = sites - plan.quorum
    dropouts = f"{bears} may drop out" if bears else "none may drop out once keys are exchanged"
    return (
        f"secure: the coordinator sees the sum alone; threshold {aggregation.threshold} of {sites}, "
        f"up to {aggregation.colluders} may collude with it, {dropouts}"
    )


@click.command("plan")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print plan.json itself instead of a table.")
def command(study: Path, as_json: bool) -> None:
    """Resolve STUDY.toml and print what it will cost; nothing is written.

    The digest is what sites approve and coordinators sign. Noise-to-signal compares the expected length of the
    noise with that of the mean such a method typically finds; above 1 the release would be mostly noise and is
    refused unless the study says privacy.allow_noisy = true.
    """
    with Bars() as bars, reporting(bars):
        plan = resolve(load_study(study))
    if as_json:
        click.echo(plan.as_bytes().decode())
    else:
        table(f"plan of {plan.study}", ["", ""], describe(plan))
    refuse_noise(plan)
    if not as_json:
        out.print(f"Next: undertone simulate {study} --data FOLDER --out RUN", highlight=False, markup=False)
