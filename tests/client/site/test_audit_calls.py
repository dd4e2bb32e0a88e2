"""Each command of a site leaves its line in the audit log, in order, and no other: a site's life from its start."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.approvals import HUB, OPERATOR
from tests.support.runs import call
from tests.support.world import World
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.core.settings_file import settings_toml
from undertone.study.plan import Plan
from undertone_client.approval.approving import free_expired
from undertone_client.approval.books import LedgerBooks
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Policy

IMAGES, PATIENTS = 50, 25
ROOMY = ("--cap-epsilon", 100, "--cap-delta", 1e-5)
Make = Callable[..., World]


class Life:
    """A site that the command line makes, beside the world's own north, of whose coordinator and images it is."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.site = world, folder
        self.hub = public_hex(world.run.key())

    def run(self, *words: object) -> None:
        result = call("node", words[0], self.site, *words[1:])
        assert result.exit_code == 0, result.output

    def made(self) -> None:
        self.run("init", "--site", "north", "--coordinator", f"{HUB}={self.hub}")

    def added(self) -> None:
        images = ("data", self.world.folder / "data" / "north")
        unit = ("--unit", "patient", "--unit-column", "patient_id", "--publish", PATIENTS)
        result = call("node", "data", "add", self.site, *images, *unit, *ROOMY)
        assert result.exit_code == 0, result.output

    def allow(self) -> None:
        policy = SiteDir(self.world.sites["north"]).policy.model_dump() | {"federations": {}}
        (self.site / "policy.toml").write_bytes(settings_toml(Policy.model_validate(policy)))

    def arrives(self, plan: Plan) -> None:
        folder = self.site.parent
        (folder / "plan.json").write_bytes(plan.as_bytes())
        (folder / "plan.sig").write_text(sign(self.world.run.key(), PLAN_DOMAIN, plan.digest), encoding="ascii")
        self.run("receive", folder / "plan.json", folder / "plan.sig")

    def approve(self, plan: Plan) -> Any:
        words = (plan.digest, "--data", "data", "--operator", OPERATOR, "--yes-digest", plan.digest[:8])
        return call("node", "approve", self.site, *words)

    def answers(self) -> None:
        for kind, error in (("prepare", ""), ("plain_input", ""), ("plain_input", "ReplayedAttempt")):
            reply = Node(self.site).handle(self.world.request(kind))
            assert reply.error == error, reply.message

    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        """Event and facts of each line."""
        found = [json.loads(line) for path in self.paths() for line in path.read_bytes().splitlines()]
        return [(line["event"], line["facts"]) for line in found]

    def paths(self) -> list[Path]:
        return sorted((self.site / "audit").glob("*.jsonl"))


@pytest.fixture
def life(make_world: Make, tmp_path: Path) -> Life:
    return Life(make_world({"north": IMAGES, "east": 4}, rounds=1, max_attempts=2), tmp_path / "life")


def test_a_sites_life_stands_in_its_audit_log_line_by_line(life: Life) -> None:
    plan = life.world.plan
    other = plan.model_copy(update={"study": "another-study"})
    about, other_about = ({"digest": one.digest} for one in (plan, other))

    life.made()
    made = {"key": public_hex(SiteDir(life.site).identity())}
    told: list[tuple[str, dict[str, Any]]] = [("log opened", {"site": "north", "log": 1}), ("site made", made)]
    assert life.lines() == told

    life.added()
    cap = {"epsilon": 100.0, "delta": 1e-5}
    told.append(("data set added", {"data_set": "data", "unit": "patient", "published": PATIENTS, **cap}))
    assert life.lines() == told
    assert call("node", "data", "update", life.site, "data").exit_code == 0
    told.append(("data set updated", {"data_set": "data"}))
    assert life.lines() == told

    life.arrives(plan)
    told.append(("plan pending", about | {"coordinator": life.hub}))
    assert life.lines() == told
    life.arrives(plan)  # waits already
    assert life.lines() == told

    assert life.approve(plan).exit_code == 3  # policy.toml allows nothing yet
    told.append(("plan refused", about | {"coordinator": life.hub, "verdict": "NotApproved"}))
    assert life.lines() == told
    life.allow()
    told.append(approved(life, plan))
    assert life.lines() == told

    life.answers()  # and is asked once more
    told.append(("attempt charged", about | {"data_set": "data", "round": 1, "attempt": 1}))
    assert life.lines() == told

    life.run("withdraw", "--unit", "patient-3", "--data", "data", "--yes")
    told.append(("unit withdrawn", {"data_set": "data"}))
    assert life.lines() == told

    life.arrives(other)
    told += [("plan pending", other_about | {"coordinator": life.hub}), approved(life, other)]
    life.run("withdraw", other.digest)
    told.append(("plan withdrawn", other_about))
    assert life.lines() == told
    life.run("withdraw", other.digest)  # it was
    assert life.lines() == told

    later = datetime.now(UTC) + timedelta(days=100)
    for _ in range(2):  # once, though asked twice
        free_expired(SiteDir(life.site), LedgerBooks(life.site / "ledger.sqlite"), later)
        assert life.lines() == [*told, ("plan expired", about)]
    told.append(("plan expired", about))

    life.run("forget", plan.digest, "--yes")
    told.append(("study forgotten", about))
    assert life.lines() == told
    holds_and_names_nothing(life, len(told))


def approved(life: Life, plan: Plan) -> tuple[str, dict[str, Any]]:
    """The line of an approval that the command line has just given."""
    result = life.approve(plan)
    assert result.exit_code == 0, result.output
    until = re.search(r"is approved until ([0-9-]{10})", result.output)
    assert until is not None
    who = {"digest": plan.digest, "coordinator": life.hub, "data_set": "data", "operator": OPERATOR}
    privacy = plan.privacy
    price = {"epsilon": privacy.epsilon, "delta": privacy.delta, "max_attempts": privacy.max_attempts}
    return "plan approved", who | price | {"expires": until[1]}


def holds_and_names_nothing(life: Life, count: int) -> None:
    """`log verify` finds the chain whole; no line has a unit's id, a file's name or a path."""
    result = call("log", "verify", life.site, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["holds"], found["site"], found["lines"], found["cut_off"]) == (True, "north", count, False)
    written = b"".join(path.read_bytes() for path in life.paths()).decode()
    for row in life.world.records["north"]:
        assert row["patient_id"] not in written
        assert row["file_name"].rpartition("/")[2] not in written
    for text in ("patient-", "scan-", ".png", "metadata", "/", "\\"):
        assert text not in written, text


def test_what_was_not_done_leaves_no_line(life: Life) -> None:
    life.made()
    life.added()
    before = life.lines()
    assert call("node", "init", life.site, "--site", "north", "--coordinator", f"{HUB}={life.hub}").exit_code
    assert call("node", "data", "update", life.site, "no-such").exit_code
    assert call("node", "withdraw", life.site, "--unit", "nobody", "--data", "data", "--yes").exit_code
    assert call("node", "withdraw", life.site, "ab" * 4).exit_code
    assert call("node", "forget", life.site, "ab" * 32, "--yes").exit_code
    reply = Node(life.site).handle(life.world.request(signature="00" * 64))
    assert reply.error
    assert life.lines() == before
