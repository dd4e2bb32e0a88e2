"""No set of survivor lists that could be opened in a study has a combination that is one site's sum (PRIVACY 12)."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.secagg import KeptLists, Run, World, identity, session, world
from undertone.errors import LedgerCorrupt, SurvivorsChanged
from undertone.privacy.chain import Entry
from undertone.secagg import sealing
from undertone.secagg.messages import ConsistencyLists, Indices
from undertone.secagg.node import InputMasked
from undertone.secagg.parameters import Parameters
from undertone.secagg.party import Party
from undertone.secagg.server import ServerSession
from undertone.secagg.stored_state import AfterMaskedInput
from undertone.secagg.survivors import check_follows
from undertone_client.round.signed_lists import LedgerLists

R1, SHARE = bytes(32), bytes(33)
FATES = ("answers", "answers", "answers", "answers", "dies before the list is durable", "dies before it is signed")


class Died(BaseException):
    """The node's process is gone; what was durable and what was signed stays."""


@dataclass
class Disk:
    """A site's ledger as `LedgerLists` sees it: `append` is one transaction, and the process may die around it."""

    lines: list[Entry] = field(default_factory=list)
    fate: str = "answers"
    meanwhile: Callable[[], None] | None = None

    def append(
        self, kind: str, body: dict[str, Any], allowed: Callable[[Sequence[Entry]], None] = lambda _: None
    ) -> str:
        overtaking, self.meanwhile = self.meanwhile, None
        if overtaking is not None:
            overtaking()  # another request at this site comes first
        allowed(self.entries())
        if self.fate == FATES[-2]:
            raise Died
        self.lines.append(Entry(len(self.lines) + 1, kind, body, "0" * 64))
        if self.fate == FATES[-1]:
            raise Died
        return "0" * 64

    def entries(self) -> list[Entry]:
        return list(self.lines)


class Pen:
    """A site's signing key that remembers what was signed: a coordinator may get hold of all of it."""

    def __init__(self, name: str) -> None:
        self._key = identity(name)
        self.signed: set[bytes] = set()

    def sign(self, data: bytes) -> bytes:
        self.signed.add(data)
        return self._key.sign(data)

    def public_key(self) -> Any:
        return self._key.public_key()


class Study:
    """Honest nodes over the attempts of a study, and a coordinator that says what it likes, with c sites to help it."""

    def __init__(self, n: int, t: int, colluders: Sequence[int]) -> None:
        self.scene: World = world(n, threshold=t, colluders=len(colluders))
        self.honest = [i for i in range(n) if i not in colluders]
        self.colluders = set(colluders)
        self.disks = {i: Disk() for i in self.honest}
        self.pens = {i: Pen(self.scene.roster[i]) for i in self.honest}
        self.opened: set[Indices] = set()
        units = dict.fromkeys(self.scene.roster, 1)
        self.plan: Any = SimpleNamespace(digest=self.scene.params.study, cohort=SimpleNamespace(units=units))

    def params(self, attempt: int) -> Parameters:
        return replace(self.scene.params, attempt=attempt)

    def consistency_check(self, site: int, attempt: int, survivors: Indices) -> None:
        """One honest site is shown U3 in a session of its own attempt, and signs, refuses or dies."""
        params, name = self.params(attempt), self.scene.roster[site]
        everybody = range(len(params.roster))
        shares = dict.fromkeys(everybody, SHARE)
        party = Party.of(params, name, self.pens[site], self.scene.federation)  # type: ignore[arg-type]
        state = InputMasked(party, AfterMaskedInput(R1, shares, {j: SHARE for j in everybody if j != site}))
        request: Any = SimpleNamespace(round=params.round, attempt=attempt, session=1)
        lists = LedgerLists(self.disks[site], self.plan, request)  # type: ignore[arg-type]
        with suppress(SurvivorsChanged, Died):
            state.consistency_check(ConsistencyLists(tuple(everybody), survivors).to_bytes(params.context), lists)

    def attempt(self, attempt: int, shown: dict[int, Indices], fates: dict[int, str]) -> None:
        """Each honest site is shown its list; then every list with t signatures could have been opened."""
        for site, survivors in shown.items():
            self.disks[site].fate = fates.get(site, "answers")
            self.consistency_check(site, attempt, survivors)
            self.disks[site].fate = "answers"
        self.see(attempt, set(shown.values()))

    def see(self, attempt: int, candidates: set[Indices]) -> None:
        context, everybody = self.params(attempt).context, tuple(range(len(self.scene.roster)))
        for survivors in candidates:
            statement = sealing.consistency_statement(context, R1, everybody, survivors)
            signers = [i for i in self.honest if i in survivors and self.has_signed(i, statement)]
            if len(signers) + len(self.colluders & set(survivors)) >= self.scene.params.threshold:
                self.opened.add(survivors)

    def has_signed(self, site: int, statement: bytes) -> bool:
        return any(data.endswith(statement.hex().encode()) for data in self.pens[site].signed)

    def isolated(self) -> list[int]:
        """Honest sites whose own vector, give or take what colluders know, is a combination of what was opened."""
        rows = [[Fraction(i in survivors) for i in self.honest] for survivors in self.opened]
        units = [[Fraction(i == j) for j in self.honest] for i in self.honest]
        return [i for i, unit in zip(self.honest, units, strict=True) if rank([*rows, unit]) == rank(rows)]


def rank(rows: Sequence[Sequence[Fraction]]) -> int:
    """By elimination, in fractions."""
    left, found = [list(row) for row in rows], 0
    for column in range(len(left[0]) if left else 0):
        pivot = next((row for row in left[found:] if row[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        left.insert(found, pivot)
        for row in left[found + 1 :]:
            factor = row[column] / pivot[column]
            row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        found += 1
    return found


THRESHOLDS = [(n, t, c) for n in range(3, 9) for t in range(2, n + 1) for c in range(n) if 2 * t > n + c and t - c >= 2]
# Where a list can shrink at all, and where it can shrink by more than once c + 2: there a wrong rule shows.
ROOM = [(n, t, c) for n, t, c in THRESHOLDS if n - t >= c + 2]
MORE = [(n, t, c) for n, t, c in ROOM if n - t > c + 2]


def test_the_rank_test_itself_sees_one_site() -> None:
    """Rows that isolate a site are found to, and blocks of two are not."""
    study = Study(5, 4, [0])
    for lists, isolated in (
        ([(0, 1, 2, 3, 4), (0, 1, 2, 3)], [4]),
        ([(0, 1, 2, 3, 4), (1, 2, 3)], [4]),  # the colluder's own vector is known
        ([(0, 1, 2, 3), (0, 1, 2, 4)], []),
        ([(0, 1, 2, 3), (0, 1, 2, 4), (0, 3, 4)], [3, 4]),  # the first less the second and the third: twice 3's
        ([(0, 1, 2, 3, 4), (0, 1, 2)], []),
    ):
        study.opened = set(lists)
        assert study.isolated() == isolated


# Not shrunk: the lists that were opened say it all, and a mutant is found out in seconds.
@settings(max_examples=500, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_no_combination_of_lists_that_could_be_opened_is_one_sites_sum(data: st.DataObject) -> None:
    """Up to eight sites; attempts, dropouts, deaths, requests that overtake each other, and a coordinator that lies."""
    n, t, c = data.draw(st.sampled_from(data.draw(st.sampled_from((THRESHOLDS, ROOM, MORE)))))
    study = Study(n, t, data.draw(st.permutations(range(n)))[:c])
    asked: list[Indices] = [tuple(range(n))]
    for attempt in range(1, data.draw(st.integers(3, 7)) + 1):
        before = data.draw(st.sampled_from((asked[-1], data.draw(st.sampled_from(asked)))))
        wanted = _narrower(data, study, before)
        how = data.draw(st.sampled_from(("all alike", "all alike", "lies and deaths", "overtaken")))
        shown = {i: wanted for i in study.honest if i in wanted and len(wanted) >= t}
        if how == "all alike":
            study.attempt(attempt, shown, {})
        elif how == "lies and deaths":
            other = _narrower(data, study, data.draw(st.sampled_from(asked)))
            some = data.draw(st.frozensets(st.sampled_from(study.honest), max_size=3))
            lies = {i: other for i in some if i in other and len(other) >= t}
            study.attempt(attempt, shown | lies, {i: data.draw(st.sampled_from(FATES)) for i in some})
        else:  # all requests of a second attempt reach the sites while those of the first wait at the ledger
            second, late = _narrower(data, study, before), attempt + 100
            for i in study.honest:
                if i in second and len(second) >= t:
                    study.disks[i].meanwhile = partial(study.consistency_check, i, late, second)
            study.attempt(attempt, shown, {})
            for disk in study.disks.values():
                disk.meanwhile = None
            study.see(late, {second})
            asked.append(second)
        asked.append(wanted)
        assert study.isolated() == [], study.opened


def _narrower(data: st.DataObject, study: Study, base: Indices) -> Indices:
    """A list within `base`, or `base` itself; colluders leave first, which narrows the difference most."""
    c = len(study.colluders)
    fewer = data.draw(st.sampled_from((0, 1, c + 1, c + 2, c + 2, c + 3)))
    order = [i for i in base if i in study.colluders]
    order += data.draw(st.permutations([i for i in base if i not in study.colluders]))
    if data.draw(st.booleans()):
        order = list(data.draw(st.permutations(base)))
    return tuple(sorted(order[fewer:])) or base


def test_an_honest_study_may_shrink_and_repeat_each_list() -> None:
    """The rule is no wall: n = 8, t = 5, c = 0, lists of 8, 8, 6 and 6."""
    study = Study(8, 5, [])
    for attempt, size in enumerate((8, 8, 6, 6), 1):
        survivors = tuple(range(size))
        study.attempt(attempt, dict.fromkeys(survivors, survivors), {})
    assert study.opened == {tuple(range(8)), tuple(range(6))}
    assert study.isolated() == []


def test_a_list_must_follow_the_last_one_and_not_an_earlier() -> None:
    """Five sites are three fewer than the first eight and one fewer than the last six: that difference is one site."""
    study = Study(8, 5, [])
    for attempt, size in enumerate((8, 6, 5, 7, 8), 1):
        survivors = tuple(range(size))
        study.attempt(attempt, dict.fromkeys(survivors, survivors), {})
    assert study.opened == {tuple(range(8)), tuple(range(6))}


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 1), (7, 2)])
def test_which_lists_may_follow_is_what_the_rule_says_for_all_pairs(n: int, c: int) -> None:
    """Every pair of lists, against the rule in so many words."""
    everything = [subset for size in range(1, n + 1) for subset in combinations(range(n), size)]
    for last in everything:
        for survivors in everything:
            allowed = survivors == last or (set(survivors) < set(last) and len(last) - len(survivors) >= c + 2)
            try:
                check_follows(last, survivors, c)
            except SurvivorsChanged:
                assert not allowed
            else:
                assert allowed


def test_a_death_between_the_entry_and_the_signature_leaves_the_entry() -> None:
    study = Study(5, 4, [4])
    everybody, four = (0, 1, 2, 3, 4), (0, 1, 2, 3)
    study.attempt(1, dict.fromkeys(study.honest, everybody), dict.fromkeys(study.honest, FATES[-1]))
    assert not any(pen.signed for pen in study.pens.values())
    study.attempt(2, dict.fromkeys(study.honest, four), {})
    assert study.opened == set()
    study.attempt(3, dict.fromkeys(study.honest, everybody), {})
    assert study.opened == {everybody}


def test_a_list_is_entered_before_it_is_signed() -> None:
    """Nothing that a site has signed is missing in its ledger, whenever it dies."""
    study = Study(5, 4, [4])
    for attempt, fate in enumerate(FATES[-3:], 1):
        study.attempt(attempt, {0: (0, 1, 2, 3, 4)}, {0: fate})
        assert len(study.pens[0].signed) <= len(study.disks[0].lines)
    assert len(study.pens[0].signed) == 1
    assert [entry.body["attempt"] for entry in study.disks[0].lines] == [1, 3]


def test_entries_of_another_study_do_not_count_and_strangers_are_damage() -> None:
    study = Study(5, 4, [4])
    disk, sites = study.disks[0], [study.scene.roster[i] for i in range(4)]
    disk.lines.append(Entry(1, "survivors", {"digest": "1" * 64, "sites": sites}, ""))
    study.attempt(1, {0: (0, 1, 2, 3, 4)}, {})
    assert len(study.pens[0].signed) == 1
    for damaged in ([*sites, "stranger"], "site-000", None):
        disk.lines.append(Entry(2, "survivors", {"digest": study.plan.digest, "sites": damaged}, ""))
        with pytest.raises(LedgerCorrupt, match="roster"):
            study.consistency_check(0, 2, (0, 1, 2, 3, 4))


def test_free_lists_are_not_kept() -> None:
    """With distributed noise, or by choice, sessions over any lists are signed."""
    for scene in (world(5, rosters="free"), world(5, noise="distributed", sigma_local=9, noise_margin=9, site_clamp=9)):
        outcome = session(scene, {"site-004": "masked_input"})
        assert outcome.opened.sites == scene.roster[:4]
        assert not any(kept.lists for kept in outcome.run.signed.values())


def test_two_sessions_of_a_study_at_real_nodes_open_one_chain() -> None:
    """The whole protocol: all five, then four; the second is refused by each, and the five once more are not."""
    scene = world(5)
    first = session(scene)
    kept = first.run.signed
    for attempt, survivors, refused in ((2, 4, True), (3, 5, False)):
        run = Run(scene.but(attempt=attempt), attempt, signed=kept)
        server = ServerSession(run.world.params, scene.federation)
        inboxes = server.share_keys(run.share_keys(server.advertise_keys(run.advertise_keys()), scene.roster))
        for site in scene.roster[:survivors]:
            assert server.add_masked_input(site, *run.masked_input(site, inboxes[site]))
        lists = server.end_masked_input()
        if refused:
            for site in scene.roster[:survivors]:
                with pytest.raises(SurvivorsChanged, match="1 fewer than in the list signed last"):
                    run.consistency_check(lists, [site])
            continue
        signature_list = server.consistency_check(run.consistency_check(lists, scene.roster))
        assert server.unmasking(run.unmasking(signature_list, scene.roster)).sites == scene.roster
    assert all(lists.lists == [(0, 1, 2, 3, 4)] * 2 for lists in kept.values())


def test_memory_of_signed_lists_is_per_site() -> None:
    one, other = KeptLists(), KeptLists()
    one.append((0, 1, 2), lambda last: check_follows(last, (0, 1, 2), 0))
    other.append((1, 2), lambda last: check_follows(last, (1, 2), 0))
    with pytest.raises(SurvivorsChanged, match="cannot come back"):
        other.append((0, 1, 2), lambda last: check_follows(last, (0, 1, 2), 0))
