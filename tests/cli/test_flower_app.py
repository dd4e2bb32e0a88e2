"""The Flower app carries no code, and no folder of the repository passes for somebody's package."""

import importlib
import importlib.util
import io
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.superexec.dependency_installer import _get_project_dependencies

import undertone_cli
from undertone.errors import FolderError
from undertone.wire.flower import MESSAGE_TYPES
from undertone_cli.engines.inprocess import run_inprocess
from undertone_client.app import app as client_app
from undertone_server.app import app as server_app

ROOT = Path(undertone_cli.__file__).parents[2]
APP = ROOT / "deployments" / "flower"


def test_the_fab_holds_pyproject_and_flowers_own_files_alone() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(APP))) as fab:
        names = set(fab.namelist())
        assert {name for name in names if not name.startswith(".info/")} == {"pyproject.toml"}
        project = tomllib.loads(fab.read("pyproject.toml").decode())
    assert set(project["tool"]["flwr"]["app"]["config"]) == {"run-dir"}


def test_the_apps_manifest_asks_an_index_for_nothing(tmp_path: Path) -> None:
    """What Flower would install, as Flower reads it; and uv, which it runs, gets by without an index."""
    assert _get_project_dependencies(APP) == []
    text = (APP / "pyproject.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == {"build-system", "project", "tool"}
    assert set(tomllib.loads(text)["tool"]) == {"flwr"}
    assert not {"optional-dependencies", "dynamic"} & set(tomllib.loads(text)["project"])
    assert resolved_offline(tmp_path / "ours", text)
    assert not resolved_offline(tmp_path / "other", text.replace("dependencies = []", 'dependencies = ["undertone"]'))


def resolved_offline(folder: Path, text: str) -> bool:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    words = [sys.executable, "-m", "uv", "lock", "--offline", "--no-config", "--cache-dir", str(folder / "cache")]
    done = subprocess.run([*words, "--python", sys.executable], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("module", ["main", "engines.choice", "commands.simulate", "engines.inprocess", "engines.ray"])
def test_run_time_installation_is_off_wherever_we_start_flower(module: str) -> None:
    """Whatever the environment says: Flower's own reading of it, in a process of its own."""
    script = (
        f"import undertone_cli.{module}\n"
        "from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink, _get_superexec_command\n"
        "print(_parse_args_run_superlink().parse_args([]).runtime_dependency_install)"
    )
    environment = os.environ | {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "0"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_nothing_here_allows_run_time_installation() -> None:
    for top in ("common", "client", "server", "deployments"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".toml", ".yml", ".yaml", ".sh", ".service", ""):
                assert b"allow-runtime-dependency-installation" not in path.read_bytes(), path


def test_the_apps_components_are_installed_modules() -> None:
    components = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"][
        "components"
    ]
    for key, kind in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, name = components[key].split(":")
        assert isinstance(vars(importlib.import_module(module))[name], kind)


def test_the_root_project_is_no_flower_app() -> None:
    """A root app would pack every text file that git does not ignore, patients' metadata included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "flwr" not in project["tool"]


@pytest.mark.parametrize("name", ["kubernetes", "flwr", "torch", "systemd", "compose", "docker"])
def test_no_folder_here_passes_for_that_package(name: str) -> None:
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    tops = [ROOT / part for part in ("common", "client", "server", "deployments", "tests")]
    assert not [place for place in places if any(Path(place).is_relative_to(top) for top in tops)]


@pytest.mark.parametrize("name", ["flower", "kubernetes", "files"])
def test_an_installed_package_wins_over_a_folder_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deployments/flower` lies on the path of an editable install; a real `flower` must still be found first."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert not Path(spec.origin).is_relative_to(ROOT / "deployments")


def test_nothing_importable_lies_directly_under_the_roots_but_our_packages() -> None:
    """Names that have no code in them are namespace packages at worst, and lose to any real package."""
    for top, ours in (
        ("common", {"undertone", "undertone_origin"}),
        ("client", {"undertone_client"}),
        ("server", {"undertone_server"}),
        ("deployments", {"undertone_cli"}),
    ):
        found = {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
        assert found == ours
        assert not list((ROOT / top).glob("*.py"))


def test_each_kind_of_message_has_a_handler() -> None:
    registered = {name for name in client_app._registered_funcs if not name.endswith(".default")}
    assert registered == set(MESSAGE_TYPES.values())


def test_a_server_app_without_run_dir_says_what_to_do(tmp_path: Path) -> None:
    from flwr.app import Context, RecordDict

    from undertone_cli.engines.inprocess import InProcessGrid

    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(FolderError, match="run-dir"):
        server_app(InProcessGrid(client_app, {}), context)
    with pytest.raises(FolderError, match="no sites"):
        run_inprocess(server_app, client_app, tmp_path, [])
