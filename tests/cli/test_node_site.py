"""What a site's operator types: init, data, withdraw, forget, unit-of."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.books import KEY, BooksInMemory, patients
from tests.support.runs import MAIN, call
from tests.support.world import World
from undertone.core.keys import public_hex
from undertone.errors import UndertoneError
from undertone_cli import console
from undertone_cli.commands.node_data import data_commands
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line with a person at it, who types `text`."""

    class Stdin:
        @staticmethod
        def isatty() -> bool:
            return True

    class System:
        stdin = Stdin

    def typing(text: str, *arguments: object) -> Result:
        from undertone_cli.main import cli

        with monkeypatch.context() as patch:
            patch.setattr(console, "sys", System)
            return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=text)

    return typing


# --- init -------------------------------------------------------------------------------------------


def test_init_makes_a_site_and_says_what_comes_next(tmp_path: Path) -> None:
    result = call("node", "init", tmp_path / "site", "--site", "north", "--coordinator", KEY)
    assert result.exit_code == 0, result.output
    site = SiteDir(tmp_path / "site")
    assert site.config.site == "north"
    assert KEY in (site.folder / "policy.toml").read_text(encoding="utf-8")
    assert f"this site's public key: {public_hex(site.identity())}" in result.stdout
    assert "undertone node data add" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--coordinator", KEY], "--site is missing"),
        (["--site", "north"], "--coordinator is missing"),
        (["--site", "North Site", "--coordinator", KEY], "cannot name a site"),
        (["--site", "north", "--coordinator", "xyz"], "--coordinator xyz is no key"),
        (["--site", "north", "--coordinator", KEY.upper()], "is no key"),
    ],
)
def test_init_says_what_it_needs(tmp_path: Path, arguments: list[str], says: str) -> None:
    result = call("node", "init", tmp_path / "site", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "site").exists()


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    arguments = ("node", "init", tmp_path / "site", "--site", "north", "--coordinator", KEY)
    call(*arguments)
    secret = SiteDir(tmp_path / "site").secret()
    result = call(*arguments)
    assert result.exit_code == 2
    assert "never overwritten" in result.stderr
    assert SiteDir(tmp_path / "site").secret() == secret


def test_init_asks_for_what_was_left_out(tmp_path: Path, terminal: Callable[..., Result]) -> None:
    result = terminal(f"north\n{KEY}\n", "node", "init", tmp_path / "site")
    assert result.exit_code == 0, result.output
    assert "name of this site" in result.stderr
    assert SiteDir(tmp_path / "site").config.site == "north"
    result = terminal("east\n", "node", "init", tmp_path / "east", "--coordinator", KEY)
    assert result.exit_code == 0, result.output
    assert SiteDir(tmp_path / "east").config.site == "east"


def test_init_at_a_real_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", MAIN, "node", "init", str(tmp_path / "site")]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, f"north\n{KEY}\n".encode())
        out, err = process.communicate(timeout=120)
    os.close(ours)
    assert process.returncode == 0, (out, err)
    assert SiteDir(tmp_path / "site").config.site == "north"


# --- data -------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    call("node", "init", tmp_path / "site", "--site", "north", "--coordinator", KEY)
    return tmp_path / "site"


def data(books: BooksInMemory, *arguments: object) -> Result:
    return CliRunner().invoke(data_commands(books), [str(argument) for argument in arguments])


CAP = ("--publish", 10, "--cap-epsilon", 8, "--cap-delta", 1e-6)
BY_PATIENT = ("--unit", "patient", "--unit-column", "patient_id", *CAP)


def test_a_data_set_is_added_updated_and_listed(site: Path, tmp_path: Path) -> None:
    books, folder = BooksInMemory(), patients(tmp_path / "images", 12)
    result = data(books, "add", site, "chest", folder, *BY_PATIENT)
    assert result.exit_code == 0, result.output
    assert "chest is added: 24 records of 12 units, published as 10" in result.stdout
    assert "checking images (24)" in result.stderr
    assert "comparing files (24)" in result.stderr
    assert books.caps == {"chest": (8.0, 1e-6)}
    (described,) = data_sets(site).values()
    assert (described.folder, described.publish) == (str(folder.resolve()), 10)
    with (folder / "metadata.csv").open("a", encoding="utf-8") as stream:
        stream.write("images/scan-0000.png,patient-40,mass\n")
    twice = data(books, "update", site, "chest")
    assert isinstance(twice.exception, UndertoneError)
    assert "a file is one record" in str(twice.exception)
    lines = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    (folder / "metadata.csv").write_text("\n".join([lines[0], *lines[3:-1]]), encoding="utf-8")
    result = data(books, "update", site, "chest")
    assert result.exit_code == 0, result.output
    assert "chest: 22 records of 11 units; 0 units joined" in result.stdout
    assert "1 units that it had once are not listed now" in result.stdout
    assert "2 files that it had once are gone or changed" in result.stdout
    assert "published stays 10" in result.stdout
    assert "2 images below" in result.stderr
    result = data(books, "list", site)
    for word in ("chest", "patient by", "patient_id", "11", "22", "10", "8, 1e-06"):
        assert word in result.stdout, result.stdout


def test_no_data_set_yet(site: Path) -> None:
    result = data(BooksInMemory(), "list", site)
    assert isinstance(result.exception, UndertoneError)
    assert "has no data set yet" in str(result.exception)


def test_metadata_elsewhere_and_ids_as_written(site: Path, tmp_path: Path) -> None:
    folder = patients(tmp_path / "images", 12)
    text = (folder / "metadata.csv").read_text(encoding="utf-8").replace("patient-1,", "PATIENT-0,")
    (folder / "metadata.csv").rename(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    arguments: tuple[Any, ...] = ("add", site, "chest", folder, *BY_PATIENT, "--metadata", tmp_path / "table.csv")
    refused = data(BooksInMemory(), *arguments)
    assert "say --ids-as-written" in str(refused.exception)
    result = data(BooksInMemory(), *arguments, "--ids-as-written")
    assert result.exit_code == 0, result.output
    assert data_sets(site)["chest"].metadata == str((tmp_path / "table.csv").resolve())


def test_a_delta_that_is_large_for_the_data_set_is_said(site: Path, tmp_path: Path) -> None:
    loud = ("--publish", 210, "--cap-epsilon", 8, "--cap-delta", 0.009, "--unit", "record")
    result = data(BooksInMemory(), "add", site, "chest", patients(tmp_path / "images", 105), *loud)
    assert result.exit_code == 0, result.output
    assert "WARN --cap-delta 0.009 is above 1 / 210" in result.stdout


# --- withdraw, forget, unit-of ----------------------------------------------------------------------


def test_a_unit_is_withdrawn_after_a_question(make_world: Make, terminal: Callable[..., Result]) -> None:
    world = make_world()
    site, digest = world.sites["north"], world.plan.digest
    world.ask("prepare")
    words = ("node", "withdraw", site, "--unit", "PATIENT-1", "--data", "data")
    refused = call(*words)
    assert refused.exit_code == 2
    assert "say --yes if it is meant" in refused.stderr
    refused = terminal("n\n", *words)
    assert refused.exit_code == 2
    assert "nothing was changed" in refused.stderr
    assert world.rows()["patient-1"].any()
    result = terminal("y\n", *words)
    assert result.exit_code == 0, result.output
    assert "data: patient patient-1\n" in result.stdout
    assert f"registered in dummy-study ({digest}): 2 records" in result.stdout
    assert "withdrawn: its records are never read again" in result.stdout
    assert "deleted: latents in 1 files of the cache, 1 rows of attempts" in result.stdout
    assert "What releases of a study keep of a unit" in result.stdout
    assert "known to nobody" in result.stdout
    assert "charges in the ledger" in result.stdout
    assert not world.rows()["patient-1"].any()
    again = call(*words, "--yes")
    assert again.exit_code == 0, again.output
    assert "it was withdrawn before" in again.stdout
    assert "data: patient patient-1 (withdrawn)" in call("node", "unit-of", site, "patient-1").stdout


def test_an_unknown_unit_is_no_withdrawal(make_world: Make) -> None:
    site = make_world().sites["north"]
    result = call("node", "withdraw", site, "--unit", "patient-7", "--data", "data", "--yes")
    assert result.exit_code == 2
    assert "no unit here is called patient-7" in result.stderr
    result = call("node", "withdraw", site, "--unit", "patient-1", "--data", "skin", "--yes")
    assert result.exit_code == 2
    assert "no data set skin: there are data" in result.stderr


def test_a_unit_is_found_by_an_id(make_world: Make) -> None:
    world = make_world()
    result = call("node", "unit-of", world.sites["north"], "Patient-02")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "data: patient patient-2",
        f"  registered in dummy-study ({world.plan.digest}): 2 records",
    ]
    assert call("node", "unit-of", world.sites["north"], "patient-2", "--data", "data").exit_code == 0
    assert call("node", "unit-of", world.sites["north"], "patient-9").exit_code == 2


def test_a_study_is_forgotten_after_a_question(make_world: Make, terminal: Callable[..., Result]) -> None:
    world = make_world()
    site, digest = world.sites["north"], world.plan.digest
    world.ask("prepare")
    world.ask("plain_input")
    refused = call("node", "forget", site, digest)
    assert refused.exit_code == 2
    assert "say --yes" in refused.stderr
    assert list((site / "registered").iterdir())
    result = terminal("y\n", "node", "forget", site, digest[:12])
    assert result.exit_code == 0, result.output
    assert f"dummy-study ({digest}), 6 records of data" in result.stdout
    assert "deleted: its registration, its latents, coins and rows of 1 attempts" in result.stdout
    assert "what remains: 1 charges in ledger.sqlite, which are never deleted" in result.stdout
    assert not list((site / "registered").iterdir())
    assert world.charges("north") == [(1, 1)]
    gone = call("node", "forget", site, digest, "--yes")
    assert gone.exit_code == 2
    assert "no registered study begins with" in gone.stderr
