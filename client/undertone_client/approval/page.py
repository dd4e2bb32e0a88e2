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
from undertone.core.text import shown
from undertone.methods.registry import method_for
from undertone.models.pinned import files_digest
from undertone.release.statement import UNIT_MEANS, trust_assumptions
from undertone.study.plan import Plan
from undertone_client.approval.books import Standing
from undertone_client.site.datasets import DataSet

_WIDTH = 96
_ACCOUNTANTS = {"central": "by its privacy loss distribution", "distributed": "in Renyi DP"}
_UNITS = {"record": ("image", "images"), "patient": ("patient", "patients"), "site": ("site", "sites")}


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

    @property
    def one(self) -> str:
        """The unit in a word."""
        return _UNITS[self.plan.privacy.unit][0]

    @property
    def many(self) -> str:
        """Several units in a word."""
        return _UNITS[self.plan.privacy.unit][1]


def approval_page(asked: Asked) -> str:
    """The page, in lines of at most 96 columns but for digests and long names."""
    parts = [
        (f"{asked.site} is asked to approve plan {asked.plan.digest[:8]} of the study {asked.plan.study}", ()),
        ("Who asks", _who_asks(asked)),
        ("What is learned", _what_is_learned(asked.plan)),
        ("From which images", _from_which_images(asked)),
        ("What leaves this site", _what_leaves(asked)),
        (f"What it costs one {asked.one}", _what_it_costs(asked)),
        ("What it takes from the budget", _what_it_takes(asked)),
        ("Who else takes part", _who_else(asked)),
        ("Whom this site trusts, and with what", _trust(asked.plan)),
        ("How long it holds", _how_long(asked)),
    ]
    return "\n\n".join("\n".join([heading.upper(), *lines]) for heading, lines in parts) + "\n"


def _who_asks(asked: Asked) -> Iterator[str]:
    yield from _wrapped(
        f"The coordinator {asked.coordinator}. The plan is signed with its key, which policy.toml of this site names. "
        f"The operator at this machine is {shown(asked.operator)}."
    )
    yield f"  key of the coordinator  {asked.coordinator_key}"
    yield f"  digest of the plan      {asked.plan.digest}"


def _what_is_learned(plan: Plan) -> Iterator[str]:
    release = method_for(plan.method.name, plan.method.options).release_format
    files = " and ".join(release.files)
    yield from _wrapped(
        f"The study adapts the image model {shown(plan.model.base)} (licence {shown(plan.model.licence, 80)}) by the "
        f"method {plan.method.name}. What is learned is {release.describe().meaning}. It is {plan.method.dimension:,} "
        f"numbers, released as {files} with a statement of what they reveal. Whoever has the release can make images "
        "with it and pass it on; it cannot be called back."
    )
    yield f"  files of the model      {files_digest(plan.model.files)}"


def _from_which_images(asked: Asked) -> Iterator[str]:
    plan, data = asked.plan, asked.data
    named = f", named by the column {shown(data.unit_column)}" if data.unit_column else ""
    columns = ", ".join(map(shown, dict.fromkeys(caption_columns(plan.data.caption))))
    words = f", with words from its metadata ({columns})" if columns else ""
    yield from _wrapped(
        f"The data set {data.name}: the images in {shown(data.folder)}, as they are registered at this approval. What "
        f"is protected is {UNIT_MEANS[plan.privacy.unit]}{named}. Each image is described to the model as "
        f'"{shown(plan.data.caption, 500)}"{words}.'
    )
    yield from _wrapped(
        f"This site publishes the round figure of {data.publish:,} {asked.many}. The true number leaves neither before "
        "nor after."
    )


def _what_leaves(asked: Asked) -> Iterator[str]:
    plan, privacy = asked.plan, asked.plan.privacy
    rounds = "one round" if privacy.rounds == 1 else f"{privacy.rounds:,} rounds"
    tries = "one attempt" if privacy.max_attempts == 1 else f"at most {privacy.max_attempts:,} attempts"
    drawn = (
        f"Every {asked.one} is in every attempt"
        if privacy.sampling_rate == 1
        else f"For each attempt the site draws each {asked.one} by a secret coin with probability "
        f"{privacy.sampling_rate:g}, and nobody else learns which"
    )
    yield from _wrapped(
        f"No image, no word about one and no number of {asked.many} leaves. The study has {rounds} in {tries}. "
        f"{drawn}. In an attempt the site computes from the images of each {asked.one} in it {plan.method.dimension:,} "
        f"numbers, limits how much they can weigh, adds up those of all {asked.many}, and sends the sum: {_how(plan)}."
    )


def _how(plan: Plan) -> str:
    if plan.aggregation.mode == "plain":
        return "as it is, so that the coordinator sees this site's own sum without noise"
    masked = f"under masks that fall away only in the sum over at least {plan.quorum} sites"
    return f"with this site's share of the noise, {masked}" if plan.privacy.noise == "distributed" else masked


def _what_it_costs(asked: Asked) -> Iterator[str]:
    privacy = asked.plan.privacy
    attempts = "in its one attempt" if privacy.max_attempts == 1 else f"in all its {privacy.max_attempts:,} attempts"
    yield from _wrapped(
        f"The plan claims epsilon {privacy.epsilon:.4g} at delta {privacy.delta:g} ({_ACCOUNTANTS[privacy.noise]}), "
        "and this machine has recomputed it from the noise. It means: whether the images of any one "
        f"{asked.one} are used or not changes the probability of whatever can be found out from the study by at most a "
        f"factor of e^{privacy.epsilon:.4g} = {exp(privacy.epsilon):.3g}, but for a probability of {privacy.delta:g}. "
        f"That is what the study costs {attempts}; it costs no less if it stops before."
    )


def _what_it_takes(asked: Asked) -> Iterator[str]:
    data, before, after = asked.data, asked.before, asked.after
    yield from _wrapped(
        f"The data set {data.name} has a budget of epsilon {data.epsilon:g} at delta {data.delta:g} for ever, for all "
        f"studies of all coordinators together. The plan takes {asked.price:.3f} of it, counted in Renyi DP, in which "
        f"costs of studies can be added up however each was chosen; so it is not the figure of the plan's own claim. "
        "What the plan has not used comes back when its approval expires or is withdrawn."
    )
    yield f"  {'epsilon':<34}{'now':>10}{'approved':>12}"
    for name, now, then in (
        ("spent", before.spent, after.spent),
        ("spent and reserved", before.committed, after.committed),
        ("left for one more study", before.left, after.left),
    ):
        yield f"  {name:<34}{now:>10.3f}{then:>12.3f}"
    yield "  (Such figures do not add up.)"


def _who_else(asked: Asked) -> Iterator[str]:
    plan = asked.plan
    others = {name: count for name, count in plan.cohort.units.items() if name != asked.site}
    named = ", ".join(f"{name} ({count:,} {asked.many})" for name, count in others.items())
    total = sum(plan.cohort.units.values())
    yield from _wrapped(
        f"{len(others)} other {'site' if len(others) == 1 else 'sites'}: {named}. With this one they publish "
        f"{total:,} {asked.many}. A sum is used if at least {plan.quorum} of the {len(plan.cohort.units)} sites are in "
        "it."
    )
    if plan.aggregation.mode == "secagg" and asked.federation is None:
        yield from _wrapped(
            "This site has pinned no federation.json, so it does not know the others' keys: it cannot take part before "
            "it does."
        )
    if asked.federation is not None:
        yield f"  their keys              federation.json {asked.federation}"


def _trust(plan: Plan) -> Iterator[str]:
    for line in trust_assumptions(plan):
        yield from _wrapped(str(line), "- ", "  ")


def _how_long(asked: Asked) -> Iterator[str]:
    yield from _wrapped(
        f"Until the end of {asked.until.isoformat()} (UTC), or until `undertone node withdraw` before. Then this site "
        "sends nothing more; what it has sent stays in what was released."
    )


def _wrapped(text: str, first: str = "", further: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
