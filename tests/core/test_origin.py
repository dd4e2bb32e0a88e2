"""Where another distribution owns the module `undertone`, no program of ours starts; an installation of ours does."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import undertone_origin

ROOT = Path(undertone_origin.__file__).parents[2]
FOLDERS = {
    "undertone": ROOT / "common",
    "undertone_origin": ROOT / "common",
    "undertone_client": ROOT / "client",
    "undertone_server": ROOT / "server",
    "undertone_cli": ROOT / "deployments",
}
PROGRAMS = ("undertone_cli.main", "undertone_client.app", "undertone_server.app")
STRANGER = "print('a stranger runs')\n"


def install(site: Path, stranger: str = "") -> Path:
    """Our five packages as a wheel leaves them, with a RECORD; `stranger` replaces undertone/__init__.py."""
    site.mkdir()
    for name, folder in FOLDERS.items():
        (site / name).mkdir()
        for entry in (folder / name).iterdir():
            (site / name / entry.name).symlink_to(entry)
    if stranger:
        (site / "undertone" / "__init__.py").unlink()
        (site / "undertone" / "__init__.py").write_text(stranger, encoding="utf-8")
    record(site, "undertone_federated-0.1.0", [f"{name}/__init__.py" for name in FOLDERS])
    return site


def record(site: Path, name: str, files: list[str]) -> None:
    folder = site / f"{name}.dist-info"
    folder.mkdir(parents=True)
    (folder / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in [f"{name}.dist-info/RECORD", *files]))


def start(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    words = [sys.executable, "-c", f"import {program}; print('started')"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert done.stdout == ""  # neither our program nor the stranger's code ran
    line = done.stderr.strip().splitlines()[-1]
    assert "ModuleTaken: the module undertone here" in line
    assert "install undertone-federated anew, in an environment of its own" in line
    return line


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stranger_installed_over_ours_is_refused_by_name(tmp_path: Path, program: str) -> None:
    site = install(tmp_path / "site", STRANGER)
    record(site, "undertone-2.4.1", ["undertone/__init__.py", "undertone/dictation.py"])
    line = refused(start(program, site))
    assert "the distribution undertone 2.4.1" in line
    assert "pip uninstall undertone, then" in line


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stranger_that_ours_was_installed_over_is_refused_too(tmp_path: Path, program: str) -> None:
    site = install(tmp_path / "site")
    record(site, "voice_typing-1.0", ["undertone/__init__.py", "undertone/dictation.py"])
    assert "the distribution voice_typing 1.0" in refused(start(program, site))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stranger_that_comes_first_on_the_path_is_refused(tmp_path: Path, program: str) -> None:
    site, other = install(tmp_path / "site"), tmp_path / "other"
    (other / "undertone").mkdir(parents=True)
    (other / "undertone" / "__init__.py").write_text(STRANGER, encoding="utf-8")
    assert "something that is not Undertone" in refused(start(program, other, site))
    record(other, "undertone-2.4.1", ["undertone/__init__.py"])
    assert "the distribution undertone 2.4.1" in refused(start(program, other, site))


def test_the_command_says_so_in_one_line_and_ends_with_3(tmp_path: Path) -> None:
    site = install(tmp_path / "site", STRANGER)
    record(site, "undertone-2.4.1", ["undertone/__init__.py"])
    done = start("undertone_cli.main", site)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_installation_of_ours_starts_whatever_it_is_called(tmp_path: Path, program: str) -> None:
    site = install(tmp_path / "site")
    (site / "undertone_federated-0.1.0.dist-info").rename(site / "undertone-0.1.0.dist-info")
    record(site, "undertone_tools-1.0", ["undertone_tools/__init__.py", "bin/undertone/x"])
    (site / "no_record-1.0.dist-info").mkdir()
    done = start(program, site)
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr


def test_an_editable_installation_under_the_old_name_starts(tmp_path: Path) -> None:
    """Its distribution lists a .pth file and no module: the files lie in the clone."""
    site = tmp_path / "site"
    record(site, "undertone-0.1.0", ["_undertone.pth", "undertone_cli/flower/pyproject.toml"])
    (site / "undertone_cli" / "flower").mkdir(parents=True)
    done = start("undertone_cli.main", site, *dict.fromkeys(FOLDERS.values()))
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr


def test_a_stranger_later_on_the_path_is_never_run(tmp_path: Path) -> None:
    site, other = install(tmp_path / "site"), tmp_path / "other"
    (other / "undertone").mkdir(parents=True)
    (other / "undertone" / "__init__.py").write_text(STRANGER, encoding="utf-8")
    record(other, "undertone-2.4.1", ["undertone/__init__.py"])
    assert start("undertone_cli.main", site, other).stdout == "started\n"


def test_the_check_loads_nothing_of_ours_and_nothing_heavy() -> None:
    script = "import sys, undertone_origin; undertone_origin.refuse_strangers(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"undertone", "importlib.metadata", "email", "numpy", "click"}


def test_the_distribution_is_not_called_as_the_strangers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == undertone_origin.DISTRIBUTION == "undertone-federated"
    assert project["scripts"] == {"undertone": "undertone_cli.main:cli"}
