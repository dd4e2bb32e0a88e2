"""An independent reader of what is on disk: no code of the package, and a memory of what it saw before.

It reads SQLite and JSON itself, works the hash chain out by its own arithmetic, and raises `Violation` with the rule
that is broken (PRIVACY 11, 12). Whatever it copies it copies with its journal, so that looking repairs nothing.
"""

import hashlib
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Violation(AssertionError):
    """A rule that does not hold on disk."""


def require(holds: object, rule: str) -> None:
    if not holds:
        raise Violation(rule)


Key = tuple[int, int]


def query(database: Path, text: str) -> list[tuple[Any, ...]]:
    """Rows of a copy, its journal rolled back as the next process would do it."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-journal", "-wal"):
            source = database.with_name(database.name + suffix)
            if source.exists():
                shutil.copyfile(source, Path(folder) / source.name)
        connection = sqlite3.connect(Path(folder) / database.name)
        connection.text_factory = bytes
        try:
            return connection.execute(text).fetchall()
        finally:
            connection.close()


def read_chain(ledger: Path) -> list[tuple[str, dict[str, Any]]]:
    """(hash, content) of each entry, once the chain holds: SHA-256 over previous hash and body, numbered from 1."""
    previous, entries = "0" * 64, []
    rows = query(ledger, "SELECT seq, prev, body, hash, round, attempt FROM entries ORDER BY seq")
    for number, (seq, prev, body, stored, round_, attempt) in enumerate(rows, 1):
        digest = hashlib.sha256(previous.encode() + body).hexdigest()
        require((seq, prev, stored) == (number, previous.encode(), digest.encode()), f"{ledger}: chain broken at {seq}")
        content = json.loads(body)
        named = content["body"]
        key = (named["round"], named["attempt"]) if content["kind"] == "charge" else (None, None)
        require((round_, attempt) == key, f"{ledger}: entry {seq} is filed as another attempt's")
        entries.append((digest, content))
        previous = digest
    require(entries and entries[0][1]["kind"] == "open", f"{ledger}: no header")
    return entries


@dataclass
class Auditor:
    """Looks at a world (RUN in `run`, nodes in `sites`) after each of its processes."""

    world: Path
    heads: dict[Path, list[str]] = field(default_factory=dict)
    values: dict[int, tuple[int, str]] = field(default_factory=dict)
    coins: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.world / "run"
        self.plan = json.loads((self.run / "plan.json").read_bytes())
        self.digest = hashlib.sha256((self.run / "plan.json").read_bytes()).hexdigest()
        self.sites = sorted((self.world / "sites").iterdir())

    # --- the whole ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Everything that must hold at any moment, however the last process ended."""
        charges = self._charges(self.run / "ledger.sqlite")
        by_site = {site.name: self._charges(site / "ledger.sqlite") for site in self.sites}
        asked = self._asked()
        self._look_at_rounds(charges, by_site, asked)
        self._look_at_lists(site.name for site in self.sites)
        self._look_at_witness(by_site)
        for site in self.sites:
            self._look_at_coins(site)
        self._look_at_release(set(charges))

    def look_at_the_end(self) -> None:
        """And what must hold once the study is done."""
        charges = self._charges(self.run / "ledger.sqlite")
        rounds = self.plan["privacy"]["rounds"]
        require(sorted(self.values) == list(range(1, rounds + 1)), "done, and a round has no V")
        opened = {(round_, attempt) for round_, (attempt, _) in self.values.items()}
        require(set(charges) >= opened, "done, and an opened sum was not charged")
        asked = {(round_, attempt) for round_, attempts in self._asked().items() for attempt in attempts}
        require(sorted(asked - opened) == sorted(self.voids()), "done, and the void attempts are not those noted")
        left = [path.name for path in self.run.rglob("*") if path.name.startswith(("sum-", "salt-"))]
        require(not left, f"done, and the private sum is still there: {left}")
        parts = [path.name for path in self.run.rglob("*.part")]
        require(not parts, f"done, and half a file is left: {parts}")
        require((self.run / "release").is_dir(), "done, and there is no release")

    # --- ledgers -----------------------------------------------------------------------------------

    def charges(self, site: str = "") -> list[Key]:
        """(round, attempt) of each charge at a site, or at the coordinator."""
        return self._charges((self.world / "sites" / site if site else self.run) / "ledger.sqlite")

    def _charges(self, ledger: Path) -> list[Key]:
        """(round, attempt) in order; the chain holds and goes on from where it was."""
        entries = read_chain(ledger)
        heads = [digest for digest, _ in entries]
        before = self.heads.get(ledger, [])
        require(heads[: len(before)] == before, f"{ledger}: what was written is not there any more")
        self.heads[ledger] = heads
        bodies = [content["body"] for _, content in entries if content["kind"] == "charge"]
        privacy = self.plan["privacy"]
        noise = "sigma_local" if privacy["noise"] == "distributed" else "sigma"
        paid = {noise: privacy[noise], "sensitivity": privacy["sensitivity"], "rate": privacy["sampling_rate"]}
        for body in bodies:
            require(body["digest"] == self.digest, f"{ledger}: a charge for another plan")
            event = body["event"]
            found = {noise: event[noise], "sensitivity": event["sensitivity"], "rate": float_of(event)}
            require(found == paid, f"{ledger}: a charge for another mechanism: {event}")
        keys = [(body["round"], body["attempt"]) for body in bodies]
        require(len(set(keys)) == len(keys), f"{ledger}: an attempt is charged twice")
        require(len(keys) <= privacy["max_attempts"], f"{ledger}: more charges than the plan allows")
        return keys

    def lists(self, site: str) -> list[set[str]]:
        """The survivor lists that a site has signed or was about to sign, oldest first; each within the one before."""
        entries = read_chain(self.world / "sites" / site / "ledger.sqlite")
        lists = [set(c["body"]["sites"]) for _, c in entries if c["kind"] == "survivors"]
        fewer = self.plan["aggregation"]["colluders"] + 2
        for last, following in itertools.pairwise(lists):
            chained = following == last or (following < last and len(last) - len(following) >= fewer)
            require(chained, f"{site} has signed {sorted(following)} after {sorted(last)}")
        return lists

    def _look_at_lists(self, sites: Iterable[str]) -> None:
        """Where lists form a chain, each list that a site signed was durable at the coordinator before, and is one."""
        if self.plan["aggregation"]["rosters"] == "free":
            return
        signed = {frozenset(listed) for site in sites for listed in self.lists(site)}
        path = self.run / "checkpoints" / "survivors.json"
        if signed:
            require(path.exists(), "a list was signed that the coordinator does not know")
        for smaller, larger in itertools.combinations(sorted(signed, key=len), 2):
            require(smaller < larger, f"two signed lists: {sorted(smaller)} and {sorted(larger)}")
        if path.exists():
            newest = set(json.loads(path.read_bytes()))
            require(all(newest <= listed for listed in signed), "the coordinator's list is not within all signed ones")

    def voids(self) -> list[Key]:
        """(round, attempt) that the coordinator's ledger notes as void."""
        entries = read_chain(self.run / "ledger.sqlite")
        return [(c["body"]["round"], c["body"]["attempt"]) for _, c in entries if c["kind"] == "void"]

    # --- rounds ------------------------------------------------------------------------------------

    def _round(self, round_: int) -> Path:
        return self.run / "checkpoints" / f"round-{round_:06d}"

    def _numbers(self, round_: int, pattern: str) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in self._round(round_).glob(pattern))

    def _asked(self) -> dict[int, list[int]]:
        """Attempts by round; numbered from 1 without gaps, and no more than the plan allows in all."""
        rounds = range(1, self.plan["privacy"]["rounds"] + 1)
        asked = {round_: self._numbers(round_, "asked-*.mark") for round_ in rounds}
        for round_, attempts in asked.items():
            require(attempts == list(range(1, len(attempts) + 1)), f"round {round_}: attempts {attempts} have gaps")
        used = sum(map(len, asked.values()))
        require(used <= self.plan["privacy"]["max_attempts"], f"{used} attempts are more than the plan allows")
        return asked

    def _look_at_rounds(self, charges: list[Key], by_site: dict[str, list[Key]], asked: dict[int, list[int]]) -> None:
        for round_, attempts in asked.items():
            noised = self._numbers(round_, "noised-*.npy")
            require(len(noised) <= 1, f"round {round_}: two values V: attempts {noised}")
            for attempt in noised:
                require((round_, attempt) in charges, f"round {round_}: V of attempt {attempt} without its charge")
                self._same_value(round_, attempt)
            require(bool(noised) or round_ not in self.values, f"round {round_}: its V is gone")
            charged = [attempt for r, attempt in charges if r == round_]
            require(set(charged) <= set(attempts), f"round {round_}: charged {charged}, asked {attempts}")
            for attempt in charged:
                left = attempt in noised + self._numbers(round_, "sum-*.npy")
                # Where sites add the noise nobody keeps a Q: a death between charge and V costs the attempt.
                lost = self.plan["privacy"]["noise"] == "distributed"
                require(left or lost, f"round {round_}: attempt {attempt} was charged and left no Q and no V")
            for attempt in {*noised, *self._numbers(round_, "sum-*.npy")}:
                self._sites_paid(round_, attempt, by_site)
            if (self._round(round_) / "state.npy").exists():
                require(noised, f"round {round_}: a state without its V")
            if noised and round_ > 1:
                require(
                    (self._round(round_ - 1) / "state.npy").exists(), f"round {round_}: V before the state it needs"
                )

    def _same_value(self, round_: int, attempt: int) -> None:
        """V once seen is V for ever."""
        data = (self._round(round_) / f"noised-{attempt:03d}.npy").read_bytes()
        value = (attempt, hashlib.sha256(data).hexdigest())
        require(self.values.setdefault(round_, value) == value, f"round {round_}: V has changed")

    def _sites_paid(self, round_: int, attempt: int, by_site: dict[str, list[Key]]) -> None:
        path = self._round(round_) / f"sites-{attempt:03d}.json"
        require(path.exists(), f"round {round_}: a sum that does not say whose")
        for site in json.loads(path.read_bytes()):
            paid = (round_, attempt) in by_site[site]
            require(paid, f"round {round_}: {site} is in the sum of attempt {attempt} and charged nothing")

    # --- what happened in between ------------------------------------------------------------------

    def witness(self) -> list[dict[str, Any]]:
        path = self.world / "witness.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def _look_at_witness(self, by_site: dict[str, list[Key]]) -> None:
        sent: set[tuple[str, int, int]] = set()
        for line in self.witness():
            require(line["kind"] != "traceback", f"a traceback: {line.get('text')}")
            if line["kind"] == "noise":
                require(line["charged"], f"noise was drawn before its charge: {line}")
                require(not line["noised_before"], f"noise was drawn for a round that has a V: {line}")
            if line["kind"] == "vector":
                key = (line["site"], line["round"], line["attempt"])
                require(line["charged"] and key[1:] in by_site[key[0]], f"a vector left before its charge: {line}")
                require(key not in sent, f"two vectors left for one attempt: {line}")
                sent.add(key)

    def _look_at_coins(self, site: Path) -> None:
        """Coins fall once for an attempt, and a finished row stays as it is until it is forgotten."""
        database = site / "state.sqlite"
        if not database.exists() or not query(database, "SELECT 1 FROM sqlite_master WHERE name = 'rows'"):
            return
        found = {(site.name, "coins", *key): units for *key, units in query(database, "SELECT * FROM samples")}
        found |= {(site.name, "row", *key): row for *key, row in query(database, "SELECT * FROM rows")}
        for key, value in found.items():
            require(self.coins.setdefault(key, value) == value, f"{key[:2]} of attempt {key[3:5]} changed")

    def _look_at_release(self, charges: set[Key]) -> None:
        """A release is whole or not there; its ledger is the run's."""
        release = self.run / "release"
        if not release.exists():
            return
        listed = json.loads((release / "MANIFEST.json").read_bytes())["files"]
        present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.iterdir()}
        del present["MANIFEST.json"], present["MANIFEST.sig"]
        require(present == listed, "half a release")
        copied = [
            content["body"] for _, content in read_chain(release / "ledger.sqlite") if content["kind"] == "charge"
        ]
        require({(body["round"], body["attempt"]) for body in copied} == charges, "the release's ledger is another")


def float_of(event: dict[str, Any]) -> float:
    """The sampling rate of an event, which is kept as its exact hexadecimal spelling or as a number."""
    rate = event["sampling_rate"]
    return float.fromhex(rate) if isinstance(rate, str) else float(rate)
