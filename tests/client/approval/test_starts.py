"""A plan that starts from a release: a site looks at that release, and at its own ledger, before a person is asked."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.client.approval.conftest import SIZES, Office, opened
from tests.client.approval.test_page import asked, golden
from tests.support.forgery import forge
from tests.support.lineage import claiming, first_plan, second_plan, started
from tests.support.runs import call
from tests.support.world import PLAIN, build_world, make_plan
from undertone.errors import AncestorNotCharged, InputError, NotApproved, UnfitStart
from undertone.models.pinned import files_digest
from undertone.privacy.ledger import Ledger
from undertone.release.start import pinned_start
from undertone.release.verify import Verified
from undertone.study.plan import Plan
from undertone_client.approval import starts
from undertone_client.approval.approvals import approval_of, keep_approval
from undertone_client.approval.approving import approve
from undertone_client.approval.page import approval_page
from undertone_client.approval.proposing import propose, requested, write_request
from undertone_client.approval.starts import CheckedStart, checked_start
from undertone_client.approval.unattended import carry_over
from undertone_client.site.accounts import Accounts
from undertone_client.site.audit_chain import FOLDER, log_files
from undertone_client.site.budget import charge, price, register_cap, reserve
from undertone_client.site.datasets import DataSet

ROUND_1 = frozenset({1})
NOTHING_FOUND = Verified("first", "", "", 1.0, 1.0, 1e-5, "patient", 3, "PLD", signer_checked=True)


class Starting(Office):
    """The same site, at which a plan waits that starts from a release of another study."""

    release: Path

    @property
    def plan(self) -> Plan:
        start = pinned_start(self.release, images=20, steps=3)
        return claiming(self.world.plan, {"start": start.model_dump()})

    @property
    def ancestor(self) -> Plan:
        return Plan.from_bytes((self.release / "plan.json").read_bytes())

    def ask(self, start: Path | None) -> Any:
        digest = self.arrives(self.plan)
        return propose(self.site, digest, "data", "A. Operator", None, self.books, self.now, start)


@pytest.fixture
def starting(tmp_path: Path, dummy_base: Path, dummy_method: None) -> Starting:
    del dummy_method
    world = build_world(tmp_path / "world", dummy_base, SIZES, aggregation=PLAIN)
    made = Starting(opened(world).world)
    made.release = tmp_path / "release"
    forge(made.release, dummy_base)
    return made


def test_without_the_release_nothing_is_approved_and_the_message_says_what_to_give(starting: Starting) -> None:
    with pytest.raises(NotApproved, match="--start FOLDER") as refusal:
        starting.ask(None)
    assert pinned_start(starting.release).manifest[:8] in str(refusal.value)
    assert "dummy-study" in str(refusal.value)


def test_a_site_whose_ledger_lacks_the_ancestors_charges_refuses(starting: Starting) -> None:
    with pytest.raises(AncestorNotCharged, match=r"the ledger of this site charges 0 of them"):
        starting.ask(starting.release)
    assert starting.nothing_is_approved()


def test_a_site_that_was_in_some_sums_alone_has_charged_those(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, dummy_base: Path
) -> None:
    """A ledger from before the study is no less old where one round went without the site."""
    second = second_plan(dummy_base, sampling_rate=1.0)
    ancestor = first_plan(dummy_base, rounds=3, max_attempts=3)
    plan, site = started(second, ancestor), "clinic-a"
    cases: list[tuple[int, set[int], bool]] = [
        (2, set(), False),
        (2, {1}, False),
        (2, {1, 3}, True),
        (2, {1, 9}, False),
        (0, set(), True),
    ]
    for sums, charged, fits in cases:
        found = replace(NOTHING_FOUND, partly={site: sums} if sums else {})
        monkeypatch.setattr(starts, "check_start", lambda _plan, _folder, found=found: found)
        starting.books.rounds[ancestor.digest] = frozenset(charged)
        if fits:
            checked = checked_start(site, plan, starting.release, starting.books)
            assert checked == CheckedStart(ancestor, len(charged), sums)
            continue
        with pytest.raises(AncestorNotCharged, match=r"in the sums of 2 of its 3 rounds, and the ledger of this site"):
            checked_start(site, plan, starting.release, starting.books)


def test_the_command_says_so_too(starting: Starting) -> None:
    """By the site's own ledger, and with the refusal in its audit log."""
    digest = starting.arrives(starting.plan)
    command = ["node", "approve", starting.site.folder, digest, "--data", "data", "--operator", "A. Operator"]
    for more, error, why in (
        ((), "NotApproved", "--start FOLDER"),
        (("--start", starting.release), "AncestorNotCharged", "charges 0 of them"),
        (("--start", starting.release.with_name("none")), "UnfitStart", "no release that a study could start from"),
    ):
        result = call(*command, *more)
        assert (result.exit_code, error in result.stderr) == (3, True)
        assert why in " ".join(result.stderr.split())
        written = [path.read_text(encoding="utf-8") for _, path in log_files(starting.site.folder / FOLDER)]
        assert any(error in text for text in written)


def test_with_them_it_is_shown_approved_and_pinned(starting: Starting) -> None:
    starting.books.rounds[starting.ancestor.digest] = ROUND_1
    proposal = starting.ask(starting.release)
    page = " ".join(proposal.document.page.split())
    assert "WHAT IT STARTS FROM" in page
    assert "draws 20 images from that release" in page
    assert "This site took part in that study, and this site's ledger charges 1 of its 1 round." in page
    assert f"manifest of the release {pinned_start(starting.release).manifest}" in page
    approval = approve(starting.site, proposal, starting.books, starting.now, say=lambda _line: None)
    assert approval.document.start == pinned_start(starting.release).manifest
    assert approval_of(starting.site, starting.plan.digest) == approval


def test_a_plan_from_its_base_needs_no_release(starting: Starting) -> None:
    starting.arrives()
    with pytest.raises(InputError, match="leave --start out"):
        propose(starting.site, starting.digest, "data", "A", None, starting.books, starting.now, starting.release)
    assert starting.propose().document.start is None
    assert b'"start"' not in starting.propose().document.as_bytes()


def another(folder: Path, base: Path) -> Path:
    forge(folder / "other", base)
    return folder / "other"


def changed(folder: Path, base: Path) -> Path:
    """Under the pinned manifest, with other weights."""
    del base
    shutil.copytree(folder / "release", folder / "changed")
    path = folder / "changed" / "learned_embeds.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return folder / "changed"


@pytest.mark.parametrize(("made", "why"), [(another, "another release"), (changed, "does not verify")])
def test_a_release_that_is_not_the_pinned_one_is_refused(
    starting: Starting, tmp_path: Path, dummy_base: Path, made: Any, why: str
) -> None:
    starting.books.rounds[starting.ancestor.digest] = ROUND_1
    with pytest.raises(UnfitStart, match=why):
        starting.ask(made(tmp_path, dummy_base))
    assert starting.nothing_is_approved()


def test_it_is_looked_at_again_when_the_operator_has_answered(starting: Starting, tmp_path: Path) -> None:
    starting.books.rounds[starting.ancestor.digest] = ROUND_1
    proposal = starting.ask(starting.release)
    starting.release.rename(tmp_path / "moved")
    with pytest.raises(UnfitStart):
        approve(starting.site, proposal, starting.books, starting.now, say=lambda _line: None)
    (tmp_path / "moved").rename(starting.release)
    starting.books.rounds.clear()
    with pytest.raises(AncestorNotCharged):
        approve(starting.site, proposal, starting.books, starting.now, say=lambda _line: None)
    assert starting.nothing_is_approved()


def test_who_signs_signs_the_release_too(starting: Starting) -> None:
    starting.books.rounds[starting.ancestor.digest] = ROUND_1
    document = write_request(starting.site, starting.ask(starting.release))
    assert pinned_start(starting.release).manifest.encode() in document.as_bytes()
    digest = starting.plan.digest
    with pytest.raises(NotApproved, match="--start FOLDER"):
        requested(starting.site, digest, "data", starting.books, starting.now)
    again = requested(starting.site, digest, "data", starting.books, starting.now, starting.release)
    assert again.document == document


@pytest.mark.parametrize("start", [None, "ab" * 32])
def test_a_request_is_held_against_what_was_looked_at(starting: Starting, start: str | None) -> None:
    """An approval of a time, or by a program, that did not look at the release is none."""
    plan = starting.plan
    changes = starting.world.signed(plan)  # approved as if the release had been looked at
    kept = approval_of(starting.site, plan.digest)
    assert kept is not None
    assert kept.document.start == plan.start.manifest  # type: ignore[union-attr]
    code, message = starting.answer(**changes)
    assert "holds no reservation" in message
    keep_approval(
        starting.site, kept.model_copy(update={"document": kept.document.model_copy(update={"start": start})})
    )
    code, message = starting.answer(**changes)
    assert (code, "another release" in message) == ("NotApproved", True)


def test_a_site_is_told_what_release_and_ledger_say_of_its_part(dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    plan = started(second_plan(dummy_base), first_plan(dummy_base))
    assert plan.ancestor is not None
    elsewhere = make_plan(dummy_base, {"north": 30, "south": 20})
    for start, words in (
        (CheckedStart(elsewhere, 0, 0), "not on the roster of that study"),
        (CheckedStart(plan.ancestor, 0, 0), "in none of its sums; this site's ledger charges 0"),
        (CheckedStart(plan.ancestor, 1, 1), "took part in that study"),
    ):
        assert words in " ".join(approval_page(asked(plan, start=start)).split())


def shown(made: Plan) -> str:
    """The page, with digests that change with the package named."""
    plan = made.model_copy(update={"model": made.model.model_copy(update={"base": "embedded:tiny"})})
    start = None if plan.ancestor is None else CheckedStart(plan.ancestor, 1, 1)
    page = approval_page(asked(plan, start=start))
    names = {plan.digest: "DIGEST", plan.digest[:8]: "DIGEST8", files_digest(plan.model.files): "FILES"}
    if plan.ancestor is not None:
        names |= {plan.ancestor.digest: "ANCESTOR"}
    for text, name in names.items():
        page = page.replace(text, name)
    return page


def pages(base: Path) -> dict[str, str]:
    second = second_plan(base)
    first = first_plan(base, second)
    return {
        "start": shown(started(second, first)),
        "start of its own claim": shown(started(second_plan(base, sigma=2900), first)),
        "successor": shown(first),
    }


@pytest.mark.parametrize("name", ["start", "start of its own claim", "successor"])
def test_the_page_is_what_it_was_word_for_word(dummy_base: Path, dummy_method: None, name: str) -> None:
    """`python -m tests.client.approval.test_starts` writes them anew; read them before they are committed."""
    del dummy_method
    assert pages(dummy_base)[name] == golden(name).read_text(encoding="utf-8")


def test_charges_of_another_ledger_are_entered_and_over(starting: Starting) -> None:
    """A simulated site goes on with what it was charged in the simulation that it starts from."""
    plan, ledger = starting.plan, starting.site.ledger
    assert plan.ancestor is not None
    ledger.unlink()
    data = DataSet(
        name="data",
        folder="/data",
        unit="patient",
        unit_column="patient_id",
        publish=plan.cohort.units["north"],
        epsilon=price(plan, before=plan.ancestor),
        delta=plan.privacy.delta,
    )
    with Ledger.create(ledger, {"role": "node", "site": "north"}) as opened_:
        register_cap(opened_, data)
    with Ledger.create(ledger.with_name("then.sqlite"), {"role": "node", "site": "north"}) as then:
        register_cap(then, data)
        reserve(then, plan.ancestor, "data")
        charge(then, plan.ancestor, 1, 1, "0" * 64)
        charges = then.charges(plan.ancestor.digest)
    carry_over(starting.site, plan, charges)
    with Ledger.open(ledger) as now:
        assert [replace(one, entry_hash="") for one in now.charges(plan.ancestor.digest)] == [
            replace(one, entry_hash="") for one in charges
        ]
        reserve(now, plan, "data")
        held = Accounts.read(now.entries()).reservations
    assert [one.freed for one in held.values()] == ["ended", None]


if __name__ == "__main__":
    import tempfile

    from tests.support.dummy import DummyMethod, make_dummy_base
    from undertone.methods.registry import METHODS

    METHODS["dummy"] = DummyMethod
    with tempfile.TemporaryDirectory() as where:
        for name_, text_ in pages(make_dummy_base(Path(where))).items():
            golden(name_).write_text(text_, encoding="utf-8")
