"""What a person reads before a plan is approved: plain sentences, a page or two, for a governance board.

Every figure comes from the plan, whose epsilon was recomputed, or from the site's own files and ledger. Text that the
coordinator chose is quoted, on one line, without control characters.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from math import exp

from undertone.core.captions import caption_columns
from undertone.core.text import MOST, shown
from undertone.methods.registry import method_for
from undertone.models.pinned import files_digest
from undertone.release.statement import UNIT_MEANS
from undertone.release.trust import UNITS, counted_by, covered_beside, trust_assumptions
from undertone.study.plan import Plan
from undertone.study.start import PlannedSuccessor
from undertone_client.approval.books import Standing
from undertone_client.approval.figures import best_guess, down, in_hundredths, rounded_up, up
from undertone_client.approval.starts import CheckedStart
from undertone_client.site.datasets import DataSet

_WIDTH = 96
_ACCOUNTANTS = {"central": "by its privacy loss distribution", "distributed": "in Renyi DP"}
_USED = {
    "record": "any one image is",
    "patient": "the images of any one patient are",
    "site": "the images of any one site are",
}


@dataclass(frozen=True)
class Asked:
    """All that the page says.

    Attributes:
        site: that is asked.
        plan: checked, its claim recomputed.
        coordinator: that asks, as policy.toml names it.
        coordinator_key: its public key.
        data: the data set that would be used.
        operator: who is at the machine.
        until: the last day of the approval.
        price: what the plan takes from the cap alone.
        before: the budget as it is.
        after: the budget once the plan is approved.
        federation: the digest of the pinned federation.json, or None.
        registered_before: whether records count that an earlier approval of the plan registered.
        start: what was found of the release that the plan starts from; None: it starts from its base.
    """

    site: str
    plan: Plan
    coordinator: str
    coordinator_key: str
    data: DataSet
    operator: str
    until: date
    price: float
    before: Standing
    after: Standing
    federation: str | None
    registered_before: bool
    start: CheckedStart | None = None

    @property
    def one(self) -> str:
        """The unit in a word."""
        return UNITS[self.plan.privacy.unit][0]

    @property
    def many(self) -> str:
        """Several units in a word."""
        return UNITS[self.plan.privacy.unit][1]


def approval_page(asked: Asked) -> str:
    """The page, in lines of at most 96 columns but for digests and long names."""
    title = f"{asked.site} is asked to approve plan {asked.plan.digest[:8]} of the study {asked.plan.study}"
    parts = [
        ("Who asks", _who_asks(asked)),
        ("What is learned", _what_is_learned(asked.plan)),
        *([] if asked.start is None else [("What it starts from", _what_it_starts_from(asked, asked.start))]),
        ("From which images", _from_which_images(asked)),
        ("What leaves this site", _what_leaves(asked)),
        (f"What it costs one {asked.one}", _what_it_costs(asked)),
        ("What it takes from the budget", _what_it_takes(asked)),
        ("Who else takes part", _who_else(asked)),
        ("Whom this site trusts, and with what", _trust(asked.plan)),
        ("How long it holds", _how_long(asked)),
    ]
    return "\n\n".join([title, *("\n".join([heading.upper(), *lines]) for heading, lines in parts)]) + "\n"


def _who_asks(asked: Asked) -> Iterator[str]:
    yield from _wrapped(
        f"The coordinator {asked.coordinator}. The plan is signed with its key, which policy.toml of this site names. "
        f"The operator at this machine is {shown(asked.operator)}."
    )
    yield f"  key of the coordinator  {asked.coordinator_key}"
    yield f"  digest of the plan      {asked.plan.digest}"


def _quoted(text: str, most: int = MOST) -> str:
    """Words of the coordinator between quotation marks, which they cannot end: they never pass for the page's own."""
    return '"' + shown(text, most).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _what_is_learned(plan: Plan) -> Iterator[str]:
    release = method_for(plan.method.name, plan.method.options).release_format
    files = " and ".join(release.files)
    yield from _wrapped(
        f"The study adapts the image model {_quoted(plan.model.base)} (licence {_quoted(plan.model.licence, 80)}) by "
        f"the method {plan.method.name}. What is learned is {release.describe().meaning}. It is "
        f"{plan.method.dimension:,} numbers, released as {files} with a statement of what they reveal. Whoever has the "
        "release can make images with it and pass it on; it cannot be called back."
    )
    yield f"  files of the model      {files_digest(plan.model.files)}"


def _what_it_starts_from(asked: Asked, start: CheckedStart) -> Iterator[str]:
    plan, ancestor = asked.plan, start.ancestor
    if plan.start is None:
        return
    pinned, its = plan.start, ancestor.privacy
    yield from _wrapped(
        f"The study does not start from the model alone, but from what another study released: {ancestor.study}, by "
        f"the method {ancestor.method.name}. The coordinator draws {pinned.images:,} images from that release and "
        f"trains the first state on them in {pinned.steps:,} steps, before it asks any site. No image of this site is "
        "read for it, and it costs nothing of its own: what is computed from a release reveals no more than the "
        "release."
    )
    yield from _wrapped(
        "This machine has verified the release: its files are those that were signed by the key below, and they agree "
        f"with each other. {_part_in(asked, start)}"
    )
    yield from _wrapped(
        f"What it cost one {UNITS[its.unit][0]}: {ancestor.study} claims epsilon {up(its.epsilon)} at delta "
        f"{its.delta:g}{_covered(ancestor.successor)}. {_both(asked)}"
    )
    yield f"  manifest of the release {pinned.manifest}"
    yield f"  digest of its plan      {ancestor.digest}"
    yield f"  signed by the key       {pinned.coordinator}"


def _part_in(asked: Asked, start: CheckedStart) -> str:
    """Whether this site's images are in the release, by the release and by the site's own ledger."""
    of, rounds = start.ancestor, start.ancestor.privacy.rounds
    if asked.site not in of.cohort.units:
        return "This site is not on the roster of that study, so nothing of it stands in this site's ledger."
    charged = f"this site's ledger charges {start.rounds:,} of its {rounds:,} {'round' if rounds == 1 else 'rounds'}"
    if start.sums == rounds:
        return f"This site took part in that study, and {charged}."
    where = f"in {start.sums:,} of its {rounds:,} sums" if start.sums else "in none of its sums"
    return f"This site is on the roster of that study and, as the release says, {where}; {charged}."


def _covered(successor: PlannedSuccessor | None) -> str:
    return "" if successor is None else f", in which {successor.study} is counted too"


def _both(asked: Asked) -> str:
    """What both studies cost together."""
    plan = asked.plan
    if plan.joint:
        return (
            f"Together with the present study it costs epsilon {up(plan.privacy.epsilon)} at delta "
            f"{plan.privacy.delta:g}: the noise of both stood in the plan of the first before it began, so one claim "
            "covers both."
        )
    return (
        f"The present study claims epsilon {up(plan.privacy.epsilon)} at delta {plan.privacy.delta:g} by itself. No "
        "figure is claimed over both, because the noise of the present study was not fixed before the first one began, "
        "and the two figures do not simply add up. What all studies together may cost is bounded by the budget of this "
        "site's data set, on which each of them draws."
    )


def _from_which_images(asked: Asked) -> Iterator[str]:
    plan, data = asked.plan, asked.data
    apart = " A patient of several images loses more than one image does." if plan.privacy.unit == "record" else ""
    named = f" Which images are whose is told by the column {shown(data.unit_column)}." if data.unit_column else ""
    columns = ", ".join(map(shown, dict.fromkeys(caption_columns(plan.data.caption))))
    words = f", with words from its metadata ({columns})" if columns else ""
    classes = ", ".join(_quoted(name, 64) for name in plan.data.classes)
    listed = (
        f" The class of an image is told by the column {_quoted(plan.data.class_column)}: one of {classes}. An image "
        "of any other class has no part in the study. The list is published with the release."
        if plan.data.class_column is not None
        else ""
    )
    yield from _wrapped(
        f"The data set {data.name}: the images in {shown(data.folder)}, {_as_registered(asked)}. What is protected is "
        f"{UNIT_MEANS[plan.privacy.unit]}.{apart}{named} Each image is described to the model as "
        f"{_quoted(plan.data.caption, 500)}{words}.{listed}"
    )
    yield from _wrapped(f"This site publishes the round figure of {data.publish:,} {asked.many}. {_true_number(plan)}")


def _as_registered(asked: Asked) -> str:
    if not asked.registered_before:
        return "as they are registered at this approval"
    return (
        "as an earlier approval of this plan registered them, which is kept: what has joined the data set since takes "
        "no part, and what is gone is missing"
    )


def _what_leaves(asked: Asked) -> Iterator[str]:
    plan, privacy = asked.plan, asked.plan.privacy
    rounds = "one round" if privacy.rounds == 1 else f"{privacy.rounds:,} rounds"
    tries = "one attempt" if privacy.max_attempts == 1 else f"at most {privacy.max_attempts:,} attempts"
    rates = list(dict.fromkeys(stage.sampling_rate for stage in plan.stages))
    shards = plan.method.shards
    drawn = (
        f"By its own secret this site splits its {asked.many} into {shards:,} shards, whatever their number, and every "
        "shard is in every attempt"
        if shards is not None
        else f"Every {asked.one} is in every attempt"
        if rates == [1]
        else f"For each attempt the site draws each {asked.one} by a secret coin with probability "
        f"{' or '.join(f'{rate:g}' for rate in rates)}, and nobody else learns which"
    )
    one, many = (f"{asked.one} in it", asked.many) if shards is None else ("shard, an empty one too", "shards")
    yield from _wrapped(
        f"{_what_stays(asked)} The study has {rounds} in {tries}. "
        f"{drawn}. In an attempt the site computes {_values(plan)} numbers for each {one}, "
        f"shortens them to a length that none may exceed, and adds up those of all its {many}. The sum leaves "
        f"{_how(plan)}.{_broken_round(plan)}"
    )


def _what_stays(asked: Asked) -> str:
    """What leaves in no form; rows of some methods say where a unit falls, so that their sum is a count."""
    counted = counted_by(asked.plan)
    if not counted:
        return f"No image leaves, no word about one, and no count of {asked.many}."
    return (
        "No image leaves and no word about one. Part of what leaves is a count: before noise the sum tells how many "
        f"{asked.many} fall to each {counted}, nearly to one. {_who_learns(asked.plan)}"
    )


def _who_learns(plan: Plan) -> str:
    """Who sees a sum before noise."""
    if plan.privacy.noise == "distributed":
        return "This site's share of the noise is in it before it leaves."
    if plan.aggregation.mode == "plain":
        return "The coordinator learns that of this site."
    return "The coordinator learns that of all sites in a sum together, and of no site by itself."


def _true_number(plan: Plan) -> str:
    if not counted_by(plan):
        return "The true number leaves neither before nor after."
    if plan.privacy.noise == "distributed":
        return "The true number leaves under noise alone."
    return "The true number is never published, but sums of this study tell the coordinator of it, as is said below."


def _values(plan: Plan) -> str:
    """How many numbers a row has; where rounds differ, in which (PRIVACY 25)."""
    if not plan.earlier:
        return f"{plan.stages[0].dimension:,}"
    *earlier, last = plan.stages
    named = (f"{one.dimension:,} (the first {len(one.rounds):,} of the rounds, for the {one.name})" for one in earlier)
    return f"{', then '.join(named)}, then {last.dimension:,}"


def _broken_round(plan: Plan) -> str:
    """What it means that no attempt can be lost; nothing to say where some can."""
    if not plan.no_attempt_to_spare:
        return ""
    return " No attempt can be lost: a round that breaks once sums have left ends the study, and what it cost is spent."


def _how(plan: Plan) -> str:
    if plan.aggregation.mode == "plain":
        return "as it is: the coordinator sees this site's own sum, without noise"
    masked = f"under masks, which fall away only where the sums of at least {plan.quorum} sites are added up"
    return f"with this site's share of the noise in it, {masked}" if plan.privacy.noise == "distributed" else masked


def _what_it_costs(asked: Asked) -> Iterator[str]:
    privacy = asked.plan.privacy
    attempts = "in its one attempt" if privacy.max_attempts == 1 else f"in all its {privacy.max_attempts:,} attempts"
    claim = up(privacy.epsilon)
    other = covered_beside(asked.plan)
    of = f" for this study and {other} together" if other else ""
    yield from _wrapped(
        f"The plan claims epsilon {claim} at delta {privacy.delta:g}{of} ({_ACCOUNTANTS[privacy.noise]}), "
        f"and this machine has recomputed it from the noise. It means: whether {_USED[privacy.unit]} used or not "
        f"changes the probability of whatever can be found out from {'both studies' if other else 'the study'} by at "
        f"most a factor of e^{claim} = {rounded_up(exp(privacy.epsilon))}, but for a probability of {privacy.delta:g}. "
        "Somebody who knows everything else and guesses which of the two it was, each as likely as the other, is right "
        f"at most {in_hundredths(best_guess(privacy.epsilon, privacy.delta))} times in 100; by chance it would be 50. "
        "Against whom that holds is said below."
    )
    if asked.plan.successor is not None:
        yield from _wrapped(
            f"The study {asked.plan.successor.study} may follow and start from what this one releases. Its noise "
            "stands in this plan, and is counted here. It will ask this site by itself; if it never does, this figure "
            "stays."
        )
        return
    if other:
        yield from _wrapped("That is what both cost in all their attempts. It costs no less if this study stops early.")
        return
    yield from _wrapped(f"That is what the study costs {attempts}. It costs no less if it stops before.")


def _what_it_takes(asked: Asked) -> Iterator[str]:
    data, before, after = asked.data, asked.before, asked.after
    yield from _wrapped(
        f"The data set {data.name} has a budget of epsilon {data.epsilon:g} at delta {data.delta:g} for ever, for all "
        f"studies of all coordinators together. The plan takes {asked.price:.3f} of it, counted in Renyi DP, in which "
        f"costs of studies can be added up however each was chosen; so it is another figure than the plan's own. "
        "What the plan has not used comes back when this site ends the study, or its approval expires or is withdrawn."
    )
    yield f"  {'epsilon':<34}{'now':>10}{'approved':>12}"
    for name, now, then in (
        ("spent", up(before.spent), up(after.spent)),
        ("spent and reserved", up(before.committed), up(after.committed)),
        ("left for one more study", down(before.left), down(after.left)),
    ):
        yield f"  {name:<34}{now:>10}{then:>12}"
    yield "  (Such figures do not add up.)"


def _who_else(asked: Asked) -> Iterator[str]:
    plan = asked.plan
    others = {name: count for name, count in plan.patients.items() if name != asked.site}
    named = ", ".join(f"{name} ({count:,} {asked.many})" for name, count in others.items())
    total = sum(plan.patients.values())
    yield from _wrapped(
        f"{len(others)} other {'site' if len(others) == 1 else 'sites'}; the plan counts {named}, and {total:,} with "
        f"this one. The figures of the others are the coordinator's word. A sum is used if {_enough(plan)} in it."
    )
    if plan.aggregation.mode == "secagg" and asked.federation is None:
        yield from _wrapped(
            "This site has pinned no federation.json, so it does not know the others' keys: it cannot take part before "
            "it does."
        )
    if asked.federation is not None:
        yield from _wrapped(
            "Their keys are those of the federation.json that this site has pinned. The coordinator signed it; that "
            "each key is the hospital's own is what whoever pinned it has made sure of."
        )
        yield f"  federation.json         {asked.federation}"


def _enough(plan: Plan) -> str:
    """How many sites must be in a sum."""
    sites = len(plan.cohort.units)
    return f"all {sites} sites are" if plan.quorum == sites else f"at least {plan.quorum} of the {sites} sites are"


def _trust(plan: Plan) -> Iterator[str]:
    for line in trust_assumptions(plan):
        yield from _wrapped(str(line), "- ", "  ")


def _how_long(asked: Asked) -> Iterator[str]:
    yield from _wrapped(
        f"Until the end of {asked.until.isoformat()} (UTC), or until `undertone node end` or `undertone node withdraw` "
        "before. Then this site sends nothing more; what it has sent stays in what was released."
    )


def _wrapped(text: str, first: str = "", further: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
