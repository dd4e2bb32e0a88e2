"""What a site's ledger says of its data sets: caps, reservations, charges. Nothing of it is kept anywhere else.

Four kinds of entries stand beside the charges, whose data set follows from the reservation of their plan:

    "data set"  {name, unit, unit_column, cap}        once for each data set; the cap with its weights, for ever
    "reserve"   {digest, data_set, event, attempts}   at approval: all that the plan may charge; of a plan of several
                {digest, data_set, stages}            stages event, attempts and rounds of each
    "free"      {digest, reason}                      end, withdrawal or expiry: what it did not charge is free again
    "lost"      {reason}                              charges are missing: all that is reserved counts as charged

Entries of files (`newest.py`) and of secure aggregation stand among them; no budget follows from those.

Entries are read strictly. One that could not have been written after those before it means that somebody else wrote
it, and then nothing is charged at all: a budget that was misread cannot be given back.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from undertone.core.canonical import Json
from undertone.errors import InputError, LedgerCorrupt, MechanismViolation
from undertone.privacy.accounting import Event, read_event
from undertone.privacy.cap import Cap
from undertone.privacy.chain import ADVICE, Entry
from undertone.privacy.filter import Approved, Filter
from undertone.privacy.renyi import NOTHING, Vector, plus

DATA_SET, RESERVE, FREE, LOST, CHARGE = "data set", "reserve", "free", "lost", "charge"


@dataclass(frozen=True)
class Registered:
    """A data set as it was registered, for ever.

    Attributes:
        name: at this site.
        unit: what privacy protects.
        unit_column: the column that names the unit, with unit patient.
        cap: what all studies together may cost one unit.
    """

    name: str
    unit: str
    unit_column: str | None
    cap: Cap

    def as_dict(self) -> dict[str, Json]:
        """The body of its entry."""
        return {"name": self.name, "unit": self.unit, "unit_column": self.unit_column, "cap": self.cap.as_dict()}


@dataclass(frozen=True)
class Part:
    """What a plan may charge in one of its stages, and what it has.

    Attributes:
        event: of one attempt; its count is 1.
        attempts: how many charges were reserved.
        rounds: first and last round of the stage; None: the plan has one stage.
        charged: how many were made, or count as made; a void attempt whose vector left is one of them.
    """

    event: Event
    attempts: int
    rounds: tuple[int, int] | None = None
    charged: int = 0

    def holds(self, round_: object) -> bool:
        """Whether a round is one of the stage's."""
        return self.rounds is None or (isinstance(round_, int) and self.rounds[0] <= round_ <= self.rounds[1])

    @cached_property
    def fields(self) -> dict[str, Json]:
        """The event as it is stored."""
        return self.event.as_dict()

    def as_dict(self) -> dict[str, Json]:
        """Its part of a reservation's entry."""
        rounds: dict[str, Json] = {} if self.rounds is None else {"rounds": list(self.rounds)}
        return rounds | {"event": self.fields, "attempts": self.attempts}


@dataclass(frozen=True)
class Reservation:
    """What one plan may charge, and what became of it.

    Attributes:
        digest: of the plan.
        data_set: that it draws on.
        parts: what it reserved in each of its stages, in the order of its rounds.
        freed: why the rest was given back; None while the plan may still charge.
    """

    digest: str
    data_set: str
    parts: tuple[Part, ...]
    freed: str | None = None

    @property
    def live(self) -> bool:
        """Whether the plan may still charge."""
        return self.freed is None

    @property
    def attempts(self) -> int:
        """How many charges were reserved."""
        return sum(part.attempts for part in self.parts)

    @property
    def charged(self) -> int:
        """How many were made, or count as made."""
        return sum(part.charged for part in self.parts)

    def as_dict(self) -> dict[str, Json]:
        """The body of its entry."""
        named: dict[str, Json] = {"digest": self.digest, "data_set": self.data_set}
        if len(self.parts) == 1:
            return named | self.parts[0].as_dict()
        return named | {"stages": [part.as_dict() for part in self.parts]}

    def same(self, other: "Reservation") -> bool:
        """Whether both reserve the same: events, attempts and data set."""
        return self.as_dict() == other.as_dict()

    def charging(self, round_: object, event: object) -> "Reservation":
        """The same after one more charge, for `event` as it is stored, in the stage of its round (PRIVACY 25).

        Raises:
            ValueError: the plan has reserved another event for that round, or charged all of it.
        """
        place = next((number for number, part in enumerate(self.parts) if part.holds(round_)), None)
        if place is None or event != self.parts[place].fields:
            raise ValueError(f"plan {self.digest[:8]} had reserved another event for its round")
        part = self.parts[place]
        if part.charged >= part.attempts:
            raise ValueError(f"plan {self.digest[:8]} had charged all that it reserved")
        parts = list(self.parts)
        parts[place] = replace(part, charged=part.charged + 1)
        return replace(self, parts=tuple(parts))

    def after(self, before: "Reservation | None") -> "Reservation":
        """The same with what the plan had charged before it ended, if it did: that stays charged."""
        if before is None:
            return self
        pairs = zip(self.parts, before.parts, strict=True)
        return replace(self, parts=tuple(replace(part, charged=old.charged) for part, old in pairs))

    @property
    def lost(self) -> tuple[Part, ...]:
        """Its parts, all charged."""
        return tuple(replace(part, charged=part.attempts) for part in self.parts)

    @property
    def approved(self) -> Approved:
        """The same for the filter."""
        allowed: Counter[Event] = Counter()
        charged: Counter[Event] = Counter()
        for part in self.parts:
            allowed[part.event] += part.attempts
            charged[part.event] += part.charged
        return Approved(allowed, +charged, self.live)

    @property
    def committed(self) -> Vector:
        """[orders] what is charged and what may still be."""
        plan = self.approved
        return plus(plan.spent, plan.unused) if self.live else plan.spent


@dataclass
class Accounts:
    """All data sets and reservations of one ledger; begin with `Accounts.read`."""

    data_sets: dict[str, Registered] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)

    @classmethod
    def read(cls, entries: Sequence[Entry]) -> "Accounts":
        """What verified entries say.

        Raises:
            LedgerCorrupt: an entry is malformed, or cannot follow those before it.
        """
        accounts = cls()
        readers = {
            DATA_SET: accounts._register,
            RESERVE: accounts._reserve,
            FREE: accounts._free,
            LOST: accounts._lose,
            CHARGE: accounts._charge,
        }
        for entry in entries:
            if entry.kind in readers:
                try:
                    readers[entry.kind](entry.body)
                except (KeyError, TypeError, ValueError, InputError, MechanismViolation) as error:
                    raise LedgerCorrupt(
                        f"ledger entry {entry.seq} ({entry.kind}) cannot stand where it does: {error}. {ADVICE}"
                    ) from error
        return accounts

    def filter(self, data_set: str) -> Filter:
        """The filter of a registered data set, as its entries leave it.

        Raises:
            LedgerCorrupt: what is spent and reserved does not fit the cap, which no entry of ours can bring about.
        """
        cap = self.data_sets[data_set].cap
        own = self.of(data_set)
        committed = NOTHING
        for reservation in own:
            committed = plus(committed, reservation.committed)
        if not cap.admits(committed):
            raise LedgerCorrupt(
                f"the ledger's entries draw more on the data set {data_set} than its cap of epsilon {cap.epsilon:g} at "
                f"delta {cap.delta:g}; nothing is charged any more. {ADVICE}"
            )
        return Filter(cap, {reservation.digest: reservation.approved for reservation in own}, committed)

    def of(self, data_set: str) -> list[Reservation]:
        """All reservations that were ever made on a data set, oldest first."""
        return [reservation for reservation in self.reservations.values() if reservation.data_set == data_set]

    def with_reservation(self, new: Reservation) -> "Accounts":
        """The same once a plan has its reservation; what it charged before it ended stays charged."""
        before = self.reservations.get(new.digest)
        return Accounts(self.data_sets, self.reservations | {new.digest: new.after(before)})

    def without_reservation(self, digest: str) -> "Accounts":
        """The same if a plan had given back what it has not charged."""
        before = self.reservations.get(digest)
        held = {} if before is None else {digest: replace(before, freed="not counted")}
        return Accounts(self.data_sets, self.reservations | held)

    def _register(self, body: Mapping[str, Json]) -> None:
        match body:
            case {"name": str(name), "unit": str(unit), "unit_column": str() | None as column, "cap": Mapping() as cap}:
                if name in self.data_sets:
                    raise ValueError(f"the data set {name} is registered twice")
                self.data_sets[name] = Registered(name, unit, column, Cap.from_dict(cap))
            case _:
                raise ValueError("it registers no data set")

    def _reserve(self, body: Mapping[str, Json]) -> None:
        match body:
            case {"digest": str(digest), "data_set": str(name), "stages": [_, _, *_] as stages, **rest} if not rest:
                new = Reservation(digest, name, tuple(map(_part, stages)))
                firsts = [part.rounds or (0, 0) for part in new.parts]
                if any(last + 1 != first for (_, last), (first, _) in pairwise([(0, 0), *firsts])):
                    raise ValueError("its stages are not the rounds one after the other")
            case {"digest": str(digest), "data_set": str(name), **rest}:
                new = Reservation(digest, name, (_part(rest),))
                if new.parts[0].rounds is not None:
                    raise ValueError("a plan of one stage names no rounds")
            case _:
                raise ValueError("it reserves nothing")
        before = self.reservations.get(digest)
        if name not in self.data_sets:
            raise ValueError(f"no data set {name} is registered")
        if before is not None and (before.live or not before.same(new)):
            raise ValueError(f"plan {digest[:8]} had reserved before")
        self.reservations[digest] = new.after(before)

    def _free(self, body: Mapping[str, Json]) -> None:
        match body:
            case {"digest": str(digest), "reason": str(reason)}:
                held = self.reservations.get(digest)
                if held is None or not held.live:
                    raise ValueError(f"plan {digest[:8]} held no reservation")
                self.reservations[digest] = replace(held, freed=reason)
            case _:
                raise ValueError("it frees nothing")

    def _lose(self, body: Mapping[str, Json]) -> None:
        match body:
            case {"reason": str(reason)}:
                for digest, held in self.reservations.items():
                    if held.live:
                        self.reservations[digest] = replace(held, parts=held.lost, freed=reason)
            case _:
                raise ValueError("it gives no reason")

    def _charge(self, body: Mapping[str, Json]) -> None:
        held = self.reservations.get(str(body["digest"]))
        if held is None or not held.live:
            raise ValueError(f"plan {str(body['digest'])[:8]} held no reservation")
        self.reservations[held.digest] = held.charging(body["round"], body["event"])


def _part(body: object) -> Part:
    """What one stage reserves, as its entry says it.

    Raises:
        ValueError, MechanismViolation: it reserves nothing.
    """
    match body:
        case {"event": Mapping() as event, "attempts": int(attempts), "rounds": [int(first), int(last)], **rest}:
            found = Part(read_event(event), attempts, (first, last))
            if not first <= last:
                raise ValueError("a stage has no round")
        case {"event": Mapping() as event, "attempts": int(attempts), **rest}:
            found = Part(read_event(event), attempts)
        case _:
            raise ValueError("it reserves nothing")
    if rest or attempts < 1 or found.event.count != 1:
        raise ValueError("it reserves no attempts of one charge each")
    return found
