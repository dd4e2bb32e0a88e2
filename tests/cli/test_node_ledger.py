"""`undertone node ledger`: the budget of each data set, a copy, and a head that backups keep."""

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.approvals import approved
from tests.support.site_budget import SUM, data_set, varied, whole_cap
from tests.support.world import World
from undertone.privacy.ledger import Ledger
from undertone_cli.main import cli
from undertone_client.site.budget import Budget, charge, free, register_cap, reserve
from undertone_client.site.folder import SiteDir


def ask(site: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["node", "ledger", str(site), *words], terminal_width=200)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def site(make_world: Callable[..., World]) -> Path:
    """With three studies on a data set `chest`: one under way, one that ended, one that nobody began."""
    world = make_world({"north": 4, "east": 4}, sampling_rate=0.9, rounds=2, max_attempts=4)
    site = world.sites["north"]
    plans = [varied(world.plan, name) for name in ("first", "second", "third")]
    with Ledger.open(site / "ledger.sqlite") as ledger:
        register_cap(ledger, data_set(whole_cap(*plans)))
        for plan in plans:
            reserve(ledger, plan, "chest")
        charge(ledger, plans[0], 1, 1, SUM)
        charge(ledger, plans[1], 1, 1, SUM)
        free(ledger, plans[1].digest, "ended")
    approved(SiteDir(site), plans[0])
    (site / "approved" / f"{plans[1].digest}.json").write_text("{")
    return site


def test_it_shows_cap_spent_reserved_and_left_by_data_set_and_study(site: Path) -> None:
    done = ask(site)
    assert done.exit_code == 0, done.output
    text = flat(done.output)
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        images, chest = Budget.of_all(ledger)
        head, entries = ledger.head, len(ledger.entries())
    assert f"ledger verified: {entries} entries head: {head}" in text
    assert "data set data: budget of each patient, for ever, at delta 1e-05" in text
    assert "data set chest: budget of each patient" in text
    assert f"cap: epsilon {chest.epsilon:g}" in text
    for figure in (chest.spent, chest.reserved, chest.committed, images.reserved):
        assert re.search(rf" {figure + 0.0005:.3f}| {figure + 0.001:.3f}", text)
    assert f"left: {int(chest.left * 1000) / 1000:.3f}" in text
    first, second, third = (study.digest[:8] for study in chest.studies)
    assert re.search(rf"{first} first \W+hub\W+1 of 4 .* approved", text)
    assert re.search(rf"{second} \W+unknown\W+1 of 4 .* ended", text)
    assert re.search(rf"{third} \W+unknown\W+0 of 4 .* approved", text)
    assert "they do not add up" in text


def test_json_says_the_same_in_full(site: Path) -> None:
    done = ask(site, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        chest, head = Budget.of_all(ledger)[1], ledger.head
    assert (found["verified"], found["head"]) == (True, head)
    assert [each["name"] for each in found["data_sets"]] == ["data", "chest"]
    shown = found["data_sets"][1]
    assert (shown["spent"], shown["reserved"], shown["left"]) == (chest.spent, chest.reserved, chest.left)
    assert (shown["studies"][0]["study"], shown["studies"][0]["coordinator"]) == ("first", "hub")
    assert (shown["studies"][1]["study"], shown["studies"][1]["freed"]) == ("", "ended")
    assert [study["charged"] for study in shown["studies"]] == [1, 1, 0]


def test_a_copy_is_whole_private_and_replaces_nothing(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    assert ask(site, "--export", str(copy)).exit_code == 0
    with Ledger.open(copy) as copied, Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        assert copied.entries() == ledger.entries()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    again = ask(site, "--export", str(copy))
    assert again.exit_code == 3
    assert "name a new file" in flat(again.output)


def further(site: Path) -> None:
    with Ledger.open(site / "ledger.sqlite") as ledger:
        digest = Budget.of_all(ledger)[1].studies[2].digest
        free(ledger, digest, "withdrawn")


def test_a_head_that_backups_keep_tells_an_older_copy(site: Path, tmp_path: Path) -> None:
    head, older = tmp_path / "head", tmp_path / "older.sqlite"
    assert ask(site, "--write-head", str(head), "--export", str(older)).exit_code == 0
    assert re.fullmatch(r"[0-9a-f]{64}\n", head.read_text())
    further(site)
    newest = tmp_path / "newest.sqlite"
    assert ask(site, "--expect-head", str(head), "--write-head", str(head), "--export", str(newest)).exit_code == 0
    kept = head.read_text()

    shutil.copyfile(older, site / "ledger.sqlite")
    for option in ("--expect-head", "--write-head"):
        done = ask(site, option, str(head))
        assert done.exit_code == 3
        text = flat(done.output)
        assert f"LedgerRestored: the ledger lacks the entry {kept[:16]}" in text
        assert "stop the node; approve, withdraw and end nothing" in text
        assert "Put back the newest copy whose head is the one in the file" in text
        assert head.read_text() == kept
    shutil.copyfile(newest, site / "ledger.sqlite")
    assert ask(site, "--expect-head", str(head)).exit_code == 0


def test_where_the_newest_copy_is_gone_all_that_is_reserved_counts_as_charged(site: Path) -> None:
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        before = Budget.of_all(ledger)[1]
    done = ask(site, "--json", "--lost", "the newest backup is gone")
    assert done.exit_code == 0
    studies = json.loads(done.stdout)["data_sets"][1]["studies"]
    assert [study["freed"] for study in studies] == ["the newest backup is gone", "ended", "the newest backup is gone"]
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        after = Budget.of_all(ledger)[1]
    assert (after.spent, after.reserved) == (before.committed, 0.0)


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff" * 64, "holds no head"), (b"", "holds no head"), (None, "head")]
)
def test_a_file_without_a_head_is_refused_and_left_alone(
    site: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    head = tmp_path / "head"
    if content is not None:
        head.write_bytes(content)
    done = ask(site, "--expect-head", str(head))
    assert done.exit_code == 2
    assert words in flat(done.output)
    if content is not None:
        assert ask(site, "--write-head", str(head)).exit_code == 2
        assert head.read_bytes() == content


def test_a_damaged_ledger_is_refused(site: Path) -> None:
    path = site / "ledger.sqlite"
    path.write_bytes(path.read_bytes().replace(b'"attempts":4', b'"attempts":9'))
    done = ask(site)
    assert done.exit_code == 3
    assert "LedgerCorrupt" in done.output


def test_a_site_without_a_data_set_says_so(site: Path, tmp_path: Path) -> None:
    (site / "ledger.sqlite").unlink()
    Ledger.create(site / "ledger.sqlite", {"role": "node", "site": "north"}).close()
    done = ask(site)
    assert done.exit_code == 0
    assert "no data set is registered" in done.output
    assert ask(tmp_path / "nothing").exit_code == 2
