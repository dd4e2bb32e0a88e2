"""What each command loads before it has something to do: slow libraries wait until they are needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dummy import make_dummy_base
from tests.support.studies import study_with, write_study

HEAVY = {"numpy", "scipy", "torch", "diffusers", "transformers", "flwr", "dp_accounting", "ray", "rich", "tensorboard"}
SCRIPT = """
import sys
from undertone_cli.main import cli
try:
    cli(sys.argv[1:], prog_name="undertone")
except SystemExit as end:
    code = end.code
print("CODE", code or 0, "LOADED", *{name.split(".")[0] for name in sys.modules})
"""


def loaded(*arguments: object) -> tuple[int, set[str]]:
    """Exit code, and which of the heavy libraries a command has imported in a process of its own."""
    words = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
    _, code, _, *names = out.splitlines()[-1].split()
    return int(code), set(names) & HEAVY


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    assert loaded("--help") == (0, set())
    assert loaded("--version") == (0, set())


@pytest.mark.parametrize("command", ["plan", "simulate", "generate", "evaluate", "demo"])
def test_a_commands_own_help_loads_no_model_and_no_flower(command: str) -> None:
    code, names = loaded(command, "--help")
    assert code == 0
    assert not names & {"torch", "diffusers", "transformers", "flwr", "ray", "tensorboard"}


def test_a_plan_needs_an_accountant_and_no_model(tmp_path: Path) -> None:
    base = make_dummy_base(tmp_path / "base")
    study = study_with({"method": {"name": "dpagg-ti"}}, str(base))
    code, names = loaded("plan", write_study(tmp_path / "study.toml", study))
    assert code == 0
    assert "dp_accounting" in names
    assert not names & {"torch", "diffusers", "transformers", "flwr", "ray", "tensorboard"}


def test_images_are_checked_before_a_model_is_loaded(tmp_path: Path) -> None:
    """Bad data are found within seconds: neither torch nor Flower is loaded for them."""
    (tmp_path / "data").mkdir()
    study = study_with({"method": {"name": "dpagg-ti"}}, str(make_dummy_base(tmp_path / "base")))
    path = write_study(tmp_path / "study.toml", study)
    code, names = loaded("simulate", path, "--data", tmp_path / "data", "--sites", 3, "--out", tmp_path / "RUN")
    assert code == 2
    assert not names & {"torch", "diffusers", "transformers", "flwr", "ray", "tensorboard"}


THREADS = """
import os, sys
from undertone_cli.main import cli
try:
    cli(sys.argv[1:], prog_name="undertone")
except SystemExit:
    pass
import torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])
"""


@pytest.mark.parametrize("program", ["undertone_cli", "undertone_client", "undertone_server"])
def test_waiting_threads_sleep_in_every_program_unless_the_user_says_otherwise(program: str) -> None:
    script = f"import os, sys, {program}; print('numpy' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    bare = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for chosen, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        words = [sys.executable, "-c", script]
        out = subprocess.run(words, capture_output=True, text=True, check=True, env=bare | chosen).stdout
        assert out.split() == ["False", expected], "and it is said before numpy loads"


def test_threads_are_set_before_anything_heavy_loads() -> None:
    words = [sys.executable, "-c", THREADS, "--threads", "1", "plan", "--help"]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
    assert out.splitlines()[-1].split() == ["1", "PASSIVE", "0"]
