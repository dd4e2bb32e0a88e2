"""`undertone plan`: everything a study will do and cost, before it does."""

import json
from dataclasses import replace
from pathlib import Path

import click

from undertone.core.progress import reporting
from undertone.methods.protocol import Said
from undertone.privacy.distributed import DistributedEvent
from undertone.release.start import start_of
from undertone.release.trust import covered_beside, together
from undertone.study.claim import check_claim, delta_warning, epsilons
from undertone.study.clip_check import ClipCheck, check_clip, refuse_clip
from undertone.study.neighbours import Neighbour, Neighbours, neighbours
from undertone.study.plan import Plan
from undertone.study.resolve import Resolved, refuse_noise, resolved, rows_are_of, units_for_signal
from undertone.study.schema import load_study
from undertone.study.stage import LAST
from undertone_cli.console import Bars, err, lines, out, table

SMALLEST_SHOWN = 1e-300
BROKEN_ROUND = "ends the study: each round has one attempt, which counts once vectors were asked for"


def describe(plan: Plan, check: ClipCheck | None = None, said: Said = ()) -> list[tuple[str, str]]:
    """The rows that `plan` prints: name and value; with a check also how C stands to public rows.

    `said` is what the method found on the base (`Resolved.said`).
    """
    privacy, total = plan.privacy, sum(plan.patients.values())
    return [
        (
            "method",
            f"{plan.method.name}, {plan.method.dimension} values, layout {plan.method.layout_digest[:8]}",
        ),
        *said,
        ("base model", plan.model.base + (f" at {plan.model.revision}" if plan.model.revision else "")),
        ("unit", f"{privacy.unit}, {privacy.adjacency}"),
        (
            "units",
            ", ".join(f"{site} {count}" for site, count in plan.patients.items()) + f" ({total} in all)",
        ),
        *_shards(plan),
        *_claim(plan),
        *_mechanism(plan, check),
        ("rounds, attempts", f"{privacy.rounds}, at most {privacy.max_attempts}"),
        *_spare(plan),
        ("sites needed", f"{plan.quorum} of {len(plan.cohort.units)}"),
        *_aggregation(plan),
        *_noise(plan),
        (
            "noise-to-signal",
            f"{privacy.noise_to_signal:.2f}; {units_for_signal(plan)} {rows_are_of(plan)} would bring it to 1",
        ),
        *_noise_over_public_rows(plan, check),
        *_delta(plan),
    ]


def _shards(plan: Plan) -> list[tuple[str, str]]:
    """What rows are of, where they are of no units, and what that makes of Delta (PRIVACY 15)."""
    if plan.method.shards is None:
        return []
    total = sum(plan.cohort.units.values())
    return [("shards", f"{plan.method.shards} at each site ({total} in all), each in every round; Delta is 2 s C")]


def show(found: Resolved, check: ClipCheck) -> None:
    """Print a plan, and its stages where it has several."""
    plan = found.plan
    table(f"plan of {plan.study}", ["", ""], describe(plan, check, found.said))
    if plan.earlier:
        table("stages", ["", *(stage.name for stage in plan.stages)], stage_rows(plan))


def show_neighbours(beside: Neighbours, *, sharded: bool) -> None:
    """Print what the same claim and C come to with one thing chosen otherwise."""
    columns = ["", "noise / C", "passes", "time here", "rounds", "attempts"]
    table("beside it, at the same epsilon and C", columns, [_neighbour(row) for row in beside.rows])
    pace = beside.pace
    notes = [(row.name, f"cannot be: {row.why_not}" if row.why_not else row.remark) for row in beside.rows[1:]]
    passes = "forward and backward through the base, for a unit in all rounds"
    seconds = f"all units one after the other on this machine, {pace.seconds:.2g} s a pass, {pace.origin}"
    if beside.rows[0].seconds is None:  # a method that encodes alone
        passes = "through the base's encoder, once for a unit: latents are kept"
        seconds = "not said: it is the encoder's, some hundredths of a second for an image of 64 pixels on a core"
    if sharded:
        passes = "forward and backward through the base, of the coordinator in all rounds: shards need none"
        seconds = f"of the coordinator on this machine, {pace.seconds:.2g} s a pass, {pace.origin}"
    lines([*notes, ("passes", passes), ("time here", seconds)])
    if any(row.by_rdp for row in beside.rows):
        lines([("~", "found by RDP, which is quick: within some hundredths of what a plan would say")])


def _neighbour(row: Neighbour) -> list[str]:
    """Its figures as text; dashes where it cannot be planned."""
    if row.noise is None:
        return [row.name, *"-----"]
    seconds = "-" if row.seconds is None else _duration(row.seconds)
    noise = f"{'~' if row.by_rdp else ''}{row.noise:.3g}"
    return [row.name, noise, f"{row.passes:g}", seconds, f"{row.rounds}", f"{row.attempts}"]


def _duration(seconds: float) -> str:
    """Two figures, in the largest unit that leaves at least one."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def _mechanism(plan: Plan, check: ClipCheck | None) -> list[tuple[str, str]]:
    """C, noise and grid; of the last stage, where there are several, which stand in a table of their own."""
    last, of = plan.stages[-1], f", {LAST}" if plan.earlier else ""
    return [
        (f"clip norm C{of}", f"{last.clip_norm:.6g} (from {last.mechanism.clip_origin})"),
        *_public_rows(check),
        (f"sigma{of}", f"{last.sigma} grid units = {last.sigma / last.sensitivity.l2:.4f} x Delta"),
        (f"sensitivity Delta{of}", f"{last.sensitivity.l2} grid units"),
        (f"scale s{of}", f"{last.grid.scale} grid units per 1.0"),
        (f"site clamp B{of}", f"{last.grid.site_clamp} grid units"),
        (f"sampling rate p{of}", f"{last.sampling_rate:g}"),
    ]


def stage_rows(plan: Plan) -> list[list[str]]:
    """One row for each figure, one column for each stage: each round's event, grid and clip (PRIVACY 25)."""
    return [
        [name, *map(str, values)]
        for name, values in (
            ("rounds", [_named(stage.rounds) for stage in plan.stages]),
            ("attempts, at most", [stage.max_attempts for stage in plan.stages]),
            ("values of a row", [stage.dimension for stage in plan.stages]),
            ("sampling rate p", [f"{stage.sampling_rate:g}" for stage in plan.stages]),
            ("clip norm C", [f"{stage.clip_norm:.6g}" for stage in plan.stages]),
            ("sigma", [stage.sigma for stage in plan.stages]),
            ("sigma / Delta", [f"{stage.sigma / stage.sensitivity.l2:.4f}" for stage in plan.stages]),
            ("sensitivity Delta", [stage.sensitivity.l2 for stage in plan.stages]),
            ("scale s", [stage.grid.scale for stage in plan.stages]),
            ("site clamp B", [stage.grid.site_clamp for stage in plan.stages]),
            (
                "epsilon by itself",
                [f"{epsilons((stage.charges,), plan.privacy.delta)[0]:.6f}" for stage in plan.stages],
            ),
            ("noise-to-signal", [f"{stage.mechanism.noise_to_signal:.2f}" for stage in plan.stages]),
        )
    ]


def _named(rounds: range) -> str:
    return f"{rounds.start}" + (f" to {rounds.stop - 1}" if len(rounds) > 1 else "")


def _public_rows(check: ClipCheck | None) -> list[tuple[str, str]]:
    """C over the median length of rows of public drawings, or why it is not known."""
    if check is None:
        return []
    rows = check.rows
    if rows is None:
        return [("C / median public row", check.unknown)]
    lengths = f"{check.clip:.4g} / {rows.median:.4g}, longest {rows.longest:.4g}, {rows.drawings} drawings"
    return [("C / median public row", f"{check.ratio:.3g} ({lengths})")]


def _noise_over_public_rows(plan: Plan, check: ClipCheck | None) -> list[tuple[str, str]]:
    """Where C is above every public row, the signal is theirs and not C."""
    if check is None or check.noise_to_signal == plan.privacy.noise_to_signal:
        return []
    return [("noise-to-signal, public rows", f"{check.noise_to_signal:.2f}: C is longer than such rows")]


def _delta(plan: Plan) -> list[tuple[str, str]]:
    """A warning where delta is above one in the number of units."""
    warning = delta_warning(plan)
    return [] if warning is None else [("WARNING", warning)]


def _claim(plan: Plan) -> list[tuple[str, str]]:
    privacy, other = plan.privacy, covered_beside(plan)
    covers = [("the claim covers", f"this study and {other} together")] if other else []
    said = f"{privacy.epsilon:.6f} at delta {privacy.delta:g}"
    if privacy.noise == "distributed":
        return [("epsilon (RDP, the claim)", said), *covers, *_lineage(plan)]
    by_rdp = ("epsilon (RDP)", f"{privacy.epsilon_rdp:.6f}")
    return [("epsilon (PLD, the claim)", said), by_rdp, *covers, *_lineage(plan)]


def _lineage(plan: Plan) -> list[tuple[str, str]]:
    """What the study starts from or what may follow, and what each costs by itself (PRIVACY 25)."""
    start, ancestor, successor = plan.start, plan.ancestor, plan.successor
    if start is not None and ancestor is not None:
        name, other = ancestor.study, ancestor.charges
        said = [
            ("start", f"the release of {name}, manifest {start.manifest[:8]}, plan {ancestor.digest[:8]}"),
            ("drawn from it", f"{start.images} images, {start.steps} steps before the first round"),
            ("both together", together(plan)),
        ]
    elif successor is not None:
        name, other = successor.study, successor.charges
        said = [("successor", f"{name} may start from the release; its noise is in this plan")]
    else:
        return []
    figures = [
        (f"epsilon, {study} alone", f"{epsilons(events, delta)[0]:.6f} at delta {delta:g}")
        for study, events, delta in (
            (plan.study, plan.charges, plan.privacy.delta),
            (name, other, (ancestor or plan).privacy.delta),
        )
    ]
    return [*figures, *said]


def _spare(plan: Plan) -> list[tuple[str, str]]:
    """What attempts beyond one a round cost, or what it means that there are none."""
    privacy = plan.privacy
    if plan.no_attempt_to_spare:
        return [("a broken round", BROKEN_ROUND)]
    events = tuple(replace(stage.event, count=len(stage.rounds)) for stage in plan.stages)
    without, without_rdp = epsilons((*plan.before, *events, *plan.after), privacy.delta)
    epsilon = without_rdp if privacy.noise == "distributed" else without
    return [("attempts to spare", f"{privacy.max_attempts - privacy.rounds}; without them epsilon is {epsilon:.6f}")]


def _aggregation(plan: Plan) -> list[tuple[str, str]]:
    """Who sees what, and how many may be missing."""
    aggregation, sites = plan.aggregation, len(plan.cohort.units)
    if aggregation.mode == "plain":
        return [("aggregation", "plain: the coordinator sees each site's sum")]
    return [
        ("aggregation", f"secagg: the coordinator sees the sum alone, words of {aggregation.wire_bits} bits"),
        ("threshold", f"{aggregation.threshold} of {sites} sites must help to open a sum"),
        ("colluders", f"up to {aggregation.colluders} sites may help a lying coordinator"),
        *_rosters(plan),
        ("dropouts tolerated", _tolerated(plan)),
    ]


def _rosters(plan: Plan) -> list[tuple[str, str]]:
    """What two sums over different sites give away; nothing to say where each vector carries noise (PRIVACY 12)."""
    if plan.free_rosters:
        once = ", so each round has one attempt" if plan.once_per_round else ""
        return [
            (
                "survivor lists",
                f"free: a coordinator that lies can learn one site's sum as the difference of two{once}",
            )
        ]
    if plan.aggregation.rosters == "free":
        return []
    fewer, spare = plan.aggregation.colluders + 2, len(plan.cohort.units) - plan.quorum
    can = f"lose {fewer} to {spare} at once, and fewer never" if fewer <= spare else f"lose none, for want of {fewer}"
    return [
        ("survivor lists", "a chain: no combination of this study's sums is over fewer than two honest sites"),
        ("a site that stays away", f"a round waits for it: after the first sum the list of sites can {can}"),
        ("not covered", "other studies over the same images, and what one sum gives away before its noise"),
    ]


def _tolerated(plan: Plan) -> str:
    """How many may be missing, and when."""
    number = len(plan.cohort.units) - plan.quorum
    if not number:
        return "none after keys are exchanged; more sites would help"
    if plan.aggregation.rosters == "free":
        return str(number)
    return f"{number} before the first sum; then for a while, which costs a wait or an attempt"


def _noise(plan: Plan) -> list[tuple[str, str]]:
    """Where noise is added; with distributed noise, by how much more than the claim needs, and what tau costs."""
    privacy = plan.privacy
    if privacy.noise == "central":
        return [("noise", "central: the coordinator adds it to the opened sum")]
    sites, last = len(plan.cohort.units), plan.stages[-1]
    # (2 alpha - 1) / (alpha - 1) is at most 3, at order 2.
    cost = 3 * sum(event.log_ratio * event.count for event in plan.charges if isinstance(event, DistributedEvent))
    return [
        ("noise", f"distributed: a noise share of each site; {plan.noise_shares} count, the rest may be left out"),
        ("a noise share", f"sigma_loc {last.sigma_local} grid units"),
        ("excess noise", f"{sites * last.sigma_local**2 / last.sigma**2:.2f} x variance when nobody drops"),
        (
            "tau term",
            f"at most {max(cost, SMALLEST_SHOWN):.0e} of epsilon: a sum of noise shares is not quite Gaussian",
        ),
        ("noise margin m", f"{last.grid.noise_margin} grid units"),
        *_ready(plan),
    ]


def _ready(plan: Plan) -> list[tuple[str, str]]:
    """When each site says that it is ready, where that could tell how many units it sampled (PRIVACY 26)."""
    if not plan.amplified_at_sites:
        return []
    after = [plan.ready_after(site) for site in plan.cohort.units]
    if not max(after):
        return [
            ("sites are ready", "as soon as they are done: for simulate alone, a site between institutions refuses it")
        ]
    return [("sites are ready", f"at a public time, {min(after):.4g} to {max(after):.4g} s after they begin")]


@click.command("plan")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print plan.json itself instead of a table.")
@click.option(
    "--neighbours", "beside_too", is_flag=True, help="With --json: one object of plan, digest and neighbours."
)
@click.option("--measure-rows", is_flag=True, help="Make rows of public drawings though the base is large.")
def command(study: Path, as_json: bool, beside_too: bool, measure_rows: bool) -> None:
    """Resolve STUDY.toml and print what it will cost; nothing is written but a cache of public numbers.

    The digest is what sites approve and coordinators sign. Noise-to-signal compares the expected length of the
    noise with that of the mean such a method typically finds. For T rounds it is one round's noise over C, divided by
    the root of T, because signals add up in length and noise as a root. Above 1 the release would be mostly noise and
    is refused unless the study says privacy.allow_noisy = true.

    C is held against the rows of public drawings, which are made once where the base is small, else with
    --measure-rows. A C that they show to be hopeless is refused in the same way.

    The last table holds the study's choice beside its neighbours: p = 1, fewer rounds, half and double K, where noise
    is added, which sites may be in a sum. It is advice: it changes no plan and refuses nothing.
    """
    with Bars() as bars, reporting(bars):
        written = load_study(study)
        found = resolved(written, start=start_of(written))
        check_claim(found.plan)
        check = check_clip(found, asked=measure_rows)
        beside = neighbours(written, found) if beside_too or not as_json else None
    plan = found.plan
    if as_json:
        click.echo(_as_json(plan, beside), nl=beside is not None)  # the digest is of these bytes and no others
        for name, warning in _delta(plan):
            err.print(f"{name}: {warning}", highlight=False, markup=False, soft_wrap=True)
    else:
        show(found, check)
        if beside is not None:
            show_neighbours(beside, sharded=plan.method.shards is not None)
        lines([("digest", plan.digest)])
    refuse_noise(plan, found.base)
    refuse_clip(check, allow_noisy=plan.privacy.allow_noisy)
    if not as_json:
        then = f"Next: undertone simulate {study} --data FOLDER [--split-by COLUMN] --out RUN"
        out.print(then, highlight=False, markup=False, soft_wrap=True)


def _as_json(plan: Plan, beside: Neighbours | None) -> str:
    """The bytes that the digest is of, as text; with neighbours an object that holds the plan."""
    text = plan.as_bytes().decode()
    if beside is None:
        return text
    return json.dumps({"digest": plan.digest, "plan": json.loads(text)} | beside.as_dict(), indent=1)
