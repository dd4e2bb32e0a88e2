"""Two commands into one folder, a command that is stopped, and a site that fails in a simulation."""

import errno
import fcntl
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_folder
from tests.support.runs import SITES, call, spawn, tiny_study
from undertone.core.durable import exclusively
from undertone.core.progress import reporting
from undertone.errors import FolderError, TooFewSites
from undertone_cli.commands import simulate as simulating
from undertone_cli.site_logs import quoting_sites
from undertone_client.node import Node

HOLDER = """
import sys, time
from pathlib import Path
from undertone.core.durable import exclusively
with exclusively(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def study(tiny_base: Path, tmp_path: Path) -> list[object]:
    """The words of a small simulation into `run`."""
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    file = tiny_study(tmp_path / "study.toml", tiny_base)
    return ["simulate", file, "--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run"]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process at work on `run`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_of_two_runs_into_one_folder_one_ends_well_and_one_is_refused(study: list[object], tmp_path: Path) -> None:
    both = [spawn(*study), spawn(*study)]
    said = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    assert "FolderError" in said[codes.index(2)]
    assert (tmp_path / "run" / "release" / "privacy.json").is_file()
    assert not list(tmp_path.glob(".run.lock"))


@pytest.mark.usefixtures("holder")
def test_a_folder_that_another_process_has_is_refused_at_once(study: list[object], tmp_path: Path) -> None:
    for words in (study, [*study[:2], "--out", tmp_path / "run", "--resume"]):
        refused = call(*words)
        assert refused.exit_code == 2
        assert "another process is at work" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("holder")
def test_pretrain_and_export_are_refused_too(tmp_path: Path) -> None:
    config = tmp_path / "pretrain.toml"
    config.write_text('[pretrain]\nname = "x"\n[data]\nimages = 16\nsize = 32\n', encoding="utf-8")
    for words in (("export", tmp_path / "release"), ("pretrain", config)):
        refused = call(*words, "--out", tmp_path / "run")
        assert refused.exit_code == 2
        assert "another process is at work" in refused.stderr, (words, refused.stderr)


@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize("words", [("generate", "release", "--prompt", "a"), ("demo",)])
def test_generate_and_demo_are_refused_too(words: tuple[str, ...], tmp_path: Path) -> None:
    refused = call(*words, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "another process is at work" in refused.stderr, refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_gives_its_folder_back(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    with exclusively(tmp_path / "run"):
        pass


def test_another_spelling_of_a_folder_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        exclusively(tmp_path / "run"),
        pytest.raises(FolderError, match="another process"),
        exclusively(tmp_path / "link" / "." / "run"),
    ):
        pass


class Folders:
    """Commands that may or may not write beside RUN, whoever runs the tests."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._may_write, opened = True, Path.open

        def checked(path: Path, mode: str = "r", **options: Any) -> Any:
            if not self._may_write and mode == "w":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(path, mode, **options)

        patch.setattr(Path, "open", checked)

    def enter(self, folder: Path, may_write: bool) -> AbstractContextManager[None]:
        self._may_write = may_write
        hold = exclusively(folder)
        hold.__enter__()
        return hold


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("made", ["before", "after", "killed"])
def test_two_exclude_each_other_whoever_may_write_beside_the_folder(
    first: bool, second: bool, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock = tmp_path / "run", tmp_path / ".run.lock"
    folders = Folders(monkeypatch)
    if made == "killed":
        lock.touch()
    if made != "after":
        folder.mkdir()
    if made == "after" and not first:
        with pytest.raises(FolderError, match="Permission denied"):
            folders.enter(folder, first)
        return
    hold = folders.enter(folder, first)
    folder.mkdir(exist_ok=True)
    for _ in range(2):  # whoever is refused gives nothing away
        with pytest.raises(FolderError, match="another process"):
            folders.enter(folder, second)
    assert lock.exists() == (first or made == "killed")
    hold.__exit__(None, None, None)
    folders.enter(folder, second).__exit__(None, None, None)
    assert lock.exists() == (made == "killed" and not first and not second)


@pytest.mark.parametrize("may_write", [True, False])
def test_where_folders_cannot_be_locked_nobody_depends_on_it(
    may_write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    lock_file = fcntl.flock

    def no_folders(one: Any, flags: int) -> None:
        if isinstance(one, int):
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock_file(one, flags)

    monkeypatch.setattr(fcntl, "flock", no_folders)
    folders = Folders(monkeypatch)
    if may_write:
        folders.enter(tmp_path / "run", may_write).__exit__(None, None, None)
    else:
        with pytest.raises(FolderError, match="Bad file"):
            folders.enter(tmp_path / "run", may_write)


# --- stopped by a person ----------------------------------------------------------------------------


def test_whoever_stops_a_run_is_told_how_to_go_on(
    study: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulating, "run_on", stopped)
        result = call(*study)
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("go on with it: ")]
    again = shlex.split(line.removeprefix("go on with it: "))
    assert again == ["undertone", "simulate", str(study[1]), "--out", str(tmp_path / "run"), "--resume"]
    done = call(*again[1:])
    assert done.exit_code == 0, done.output


def test_before_anything_was_written_there_is_nothing_to_resume(
    study: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulating, "split", stopped)
    result = call(*study)
    assert "nothing was written" in result.stderr
    assert "--resume" not in result.stderr


# --- a site's own reason ----------------------------------------------------------------------------


class Kept:
    """A reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_site_that_fails_in_a_simulation_is_quoted(study: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the disk\x1b[31m is on fire\nat /x")

    monkeypatch.setattr(Node, "_answer", broken)
    result = call(*study)
    assert result.exit_code == 3
    for site in SITES:
        assert f"{site} says: " in result.stderr
    assert "RuntimeError: the disk" in result.stderr
    assert "\x1b[31m" not in result.stderr


def fail_in_north(folder: Path) -> None:
    with quoting_sites(folder):
        with (folder / "north" / "node.log").open("a", encoding="utf-8") as log:
            log.write(f"2026-01-01T00:00:01Z prepare failed: E: \x1b[31m{'y' * 10_000}\n")
            log.write("2026-01-01T00:00:01Z refused: site-fault: see node.log\n")
        raise TooFewSites("0 sites answered")


def test_only_what_was_written_in_this_run_is_quoted_and_it_is_bounded(tmp_path: Path) -> None:
    for site, text in (("east", "old failed: x"), ("north", "old failed: x"), ("south", "all is well")):
        (tmp_path / site).mkdir()
        (tmp_path / site / "node.log").write_text(f"2026-01-01T00:00:00Z {text}\n", encoding="utf-8")
    kept = Kept()
    with reporting(kept), pytest.raises(TooFewSites):  # type: ignore[arg-type]
        fail_in_north(tmp_path)
    (line,) = kept.lines
    assert line.startswith("north says: prepare failed: E: ")
    assert len(line) < 600
    assert line.isprintable()
