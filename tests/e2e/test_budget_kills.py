"""kill -9 on real processes that approve, charge and end studies: no ledger says less than what left (PRIVACY 13)."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.auditor import read_chain
from tests.support.budget import SlowAccountant, fields
from tests.support.budget_driver import Life, studies
from tests.support.crashes import KILLED, ROOT
from tests.support.site_budget import UNITS, data_set, new_ledger
from tests.support.world import make_plan
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.site.budget import Budget, register_cap

CAP = 3.0
DATA = data_set(CAP)
LIVES_OF_A_LEDGER = 25


@pytest.fixture(scope="module")
def plan(dummy_base: Path) -> Plan:
    return make_plan(dummy_base, UNITS, sampling_rate=0.9)


@pytest.fixture(scope="module")
def driver(plan: Plan) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.budget_driver"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(plan.as_bytes().decode() + "\n")
    yield process
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@dataclass
class Site:
    """A ledger, the processes that died over it, and what must hold after each of them."""

    folder: Path
    plans: dict[str, Plan]
    driver: subprocess.Popen[str]
    written: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, plan: Plan, driver: subprocess.Popen[str]) -> "Site":
        folder.mkdir()
        with new_ledger(folder / "ledger.sqlite") as ledger:
            register_cap(ledger, DATA)
        return cls(folder, {each.digest: each for each in studies(plan)}, driver)

    def live(self, chance: random.Random) -> None:
        """One process until its death: half of them at a commit, the others at some moment."""
        hit, milliseconds = (chance.randint(1, 5), 0.0) if chance.random() < 0.5 else (0, chance.uniform(0, 60))
        seed = chance.getrandbits(32)
        life = Life(str(self.folder / "ledger.sqlite"), str(self.folder / "witness"), seed, hit, milliseconds)
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps(asdict(life)) + "\n")
        self.driver.stdin.flush()
        assert int(self.driver.stdout.readline()) == KILLED

    def witness(self) -> list[dict[str, Any]]:
        path = self.folder / "witness"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def look(self) -> None:
        """The ledger, read past the package, holds what was witnessed and no more than one step of each death."""
        chain = read_chain(self.folder / "ledger.sqlite")
        heads = [digest for digest, _ in chain]
        assert heads[: len(self.written)] == self.written, "what was written is not there any more"
        self.written = heads
        charged: Counter[tuple[str, int]] = Counter()
        open_: dict[str, int] = {}
        ever: set[str] = set()
        for _, content in chain:
            body = content["body"]
            match content["kind"]:
                case "reserve":
                    ever.add(body["digest"])
                    done = sum(count for (digest, _), count in charged.items() if digest == body["digest"])
                    open_[body["digest"]] = body["attempts"] - done
                case "charge":
                    charged[body["digest"], body["round"]] += 1
                    open_[body["digest"]] -= 1
                case "free":
                    del open_[body["digest"]]
        seen = self.witness()
        left = {(line["digest"], line["round"]) for line in seen if line["kind"] == "vector"}
        assert left <= set(charged), "a vector left that was not charged"
        assert max(charged.values(), default=1) == 1
        assert min(open_.values(), default=0) >= 0
        approved = {line["digest"] for line in seen if line["kind"] == "approved"}
        assert approved <= ever, "an approval counted whose reservation is lost"
        self.look_at_the_budget(charged, open_, left)

    def look_at_the_budget(
        self, charged: Counter[tuple[str, int]], open_: dict[str, int], left: set[tuple[str, int]]
    ) -> None:
        """Never above the cap, spent or reserved, and never less than what left."""
        with Ledger.open(self.folder / "ledger.sqlite") as ledger:
            budget, cap = Budget.of(ledger, DATA), ledger.entries()[1].body["cap"]
        in_ledger, in_the_world = SlowAccountant(cap), SlowAccountant(cap)  # type: ignore[arg-type]
        for digest, _ in charged:
            in_ledger.charge(self.plans[digest].stage_of(1).event.as_dict())
        for digest, _ in left:
            in_the_world.charge(self.plans[digest].stage_of(1).event.as_dict())
        reserved: Counter[Any] = Counter()
        for digest, count in open_.items():
            reserved[fields(self.plans[digest].stage_of(1).event.as_dict())] += count
        if charged or +reserved:
            assert in_ledger.finds(reserved) <= CAP
        if left:
            assert budget.spent >= in_the_world.finds()
        if charged:
            assert 0 <= budget.spent - float(in_ledger.finds()) < 1e-9


def some_slow(kills: int, seeds: range) -> list[Any]:
    return [pytest.param(kills, seed, marks=pytest.mark.slow) for seed in seeds]


@pytest.mark.parametrize(("kills", "seed"), [(50, 0), *some_slow(250, range(1, 5))])
def test_no_ledger_forgets_what_left_wherever_its_processes_are_killed(
    driver: subprocess.Popen[str], plan: Plan, memory_folder: Path, kills: int, seed: int
) -> None:
    chance = random.Random(seed)
    within: Counter[str] = Counter()
    witnessed: Counter[str] = Counter()
    for number in range(kills // LIVES_OF_A_LEDGER):
        site = Site.begin(memory_folder / f"budget-{seed}-{number}", plan, driver)
        for _ in range(LIVES_OF_A_LEDGER):
            site.live(chance)
            site.look()
            seen = site.witness()
            if seen and seen[-1]["kind"] == "begin":
                within[seen[-1]["step"]] += 1
        witnessed.update(line["kind"] for line in site.witness())
    # Many died within a step, in each kind of step, and studies went on all the same.
    assert within.total() > kills / 3
    assert min(within[step] for step in ("approve", "charge", "end")) > 0
    assert witnessed["vector"] > kills / 5
    assert min(witnessed["approved"], witnessed["ended"]) > kills / 20
