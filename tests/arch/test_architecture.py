"""The direction of imports, the doors between stages and the walls around libraries, read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from undertone.failpoints import NAMES
from undertone.methods.registry import METHODS

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "undertone": ROOT / "common" / "undertone",
    "undertone_origin": ROOT / "common" / "undertone_origin",
    "undertone_client": ROOT / "client" / "undertone_client",
    "undertone_server": ROOT / "server" / "undertone_server",
    "undertone_cli": ROOT / "deployments" / "undertone_cli",
}
MAY_IMPORT = {
    "undertone": {"undertone"},
    "undertone_origin": set(),  # asked before anything is imported from `undertone`
    "undertone_client": {"undertone", "undertone_origin", "undertone_client"},
    "undertone_server": {"undertone", "undertone_origin", "undertone_server"},
    "undertone_cli": set(PACKAGES),
}

# Who may build a stage (or a receipt): a step cannot be skipped by accident.
DOORS = {
    "Contributions": {"undertone_client/contribution.py"},
    "ClippedSum": {"undertone/privacy/quantise.py"},
    "ClippedSumWithNoiseShare": {"undertone_client/noise_share.py"},
    "MaskedVector": {
        "undertone/secagg/plain.py",
        "undertone_client/session.py",
        "undertone_server/plain_round.py",
    },
    "Sum": {"undertone/secagg/plain.py", "undertone_server/run.py", "undertone_server/secure_round.py"},
    "SumWithNoiseShares": {"undertone_server/secure_round.py"},
    "NoisedSum": {"undertone_server/gate.py"},
    "Release": {"undertone_server/release.py"},
    "Receipt": {"undertone/privacy/ledger.py"},
}
# Who may call: noise is drawn at the gate alone, a step is taken from a noised sum alone (the diagnostics of a
# simulation, which read private data and say so, are the one exception), weights are written by the release.
CALLERS = {
    "rounded_gaussian": {"undertone_server/gate.py"},
    "discrete_gaussian": {"undertone_client/noise_share.py"},
    "add_rounded_gaussian": {"undertone/privacy/noise.py"},
    "add_discrete_gaussian": {"undertone/privacy/noise.py"},
    "WordStream": {"undertone/privacy/noise.py"},
    "step": {
        "undertone_server/update.py",
        "undertone_cli/diagnostics.py",
        "undertone/methods/textual_inversion/inversion.py",
    },
    "charge": {"undertone_server/gate.py", "undertone_client/attempt.py"},
    # A base is loaded from the view of its pinned files alone, found on disk, and fetched by one command.
    "from_pretrained": {"undertone/models/base.py"},
    "snapshot_download": {"undertone/models/pinned.py", "undertone/models/fetching.py"},
    "fetch": {"undertone_cli/model.py"},
    "save_file": set(),
    "save_pretrained": {"undertone_cli/export.py"},  # of a release, which is public
}
# Public pre-training writes public weights and steps its own optimisers.
PUBLIC = "undertone/pretraining/"
# Which modules may import a library. A folder stands for all its files.
WALLS = {
    "flwr": {
        "undertone/transport.py",
        "undertone_client/app.py",
        "undertone_server/app.py",
        "undertone_server/sites.py",
        "undertone_server/study.py",
        "undertone_cli/inprocess.py",
        "undertone_cli/ray_engine.py",
    },
    "ray": {"undertone_cli/ray_engine.py"},
    "dp_accounting": {"undertone/privacy/accounting.py"},
    "scipy": {"undertone/privacy/noise.py"},
    "opacus": {"undertone/gradients/fallback.py"},
    "opendp": set(),
    "peft": {"undertone/methods/lora/adapters.py"},
    "huggingface_hub": {"undertone/models/pinned.py", "undertone/models/fetching.py"},
    "socket": set(),
    "http": set(),
    "urllib": set(),
    "requests": set(),
    "httpx": set(),
    "random": set(),
    "secrets": {"undertone_cli/generate.py"},
    "safetensors.numpy": {"undertone_server/release.py"},
}
TORCH_FREE = (
    "undertone/privacy/",
    "undertone/secagg/",
    "undertone/methods/protocol.py",
    "undertone/methods/registry.py",
    "undertone/methods/release_format.py",
    "undertone/methods/weights.py",
    "undertone/claim.py",
    "undertone/clip_check.py",
    "undertone/models/pinned.py",
    "undertone/plan.py",
    "undertone/public_cache.py",
    "undertone/public_rows.py",
    "undertone/resolve.py",
    "undertone/study.py",
    "undertone/verify.py",
    "undertone_server/rounds.py",
    "undertone_server/gate.py",
    "undertone_server/secure_round.py",
    "undertone_cli/main.py",
    "undertone_cli/plan.py",
    "undertone_cli/verify.py",
)


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            yield f"{package}/{path.relative_to(folder)}", path, ast.parse(path.read_text(encoding="utf-8"))


MODULES = list(modules())


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def called(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            names.add(function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""))
    return names


def within(name: str, module: str) -> bool:
    return module == name or module.startswith(name + ".")


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 40
    assert {name.split("/")[0] for name, _, _ in MODULES} == set(PACKAGES)


@pytest.mark.parametrize(("name", "tree"), [(name, tree) for name, _, tree in MODULES])
def test_imports_go_one_way(name: str, tree: ast.Module) -> None:
    package = name.split("/")[0]
    used = {module.split(".")[0] for module in imported(tree)} & set(PACKAGES)
    assert used <= MAY_IMPORT[package], f"{name} imports {used - MAY_IMPORT[package]}"


METHOD_FOLDERS = {module.split(".")[2] for module in (method.__module__ for method in METHODS.values())}


def test_only_the_registry_imports_a_method() -> None:
    """A method's folder is known to itself and to the registry; nothing else in the packages knows that it is there."""
    assert len(METHOD_FOLDERS) >= 3
    for folder in METHOD_FOLDERS:
        inside = f"undertone/methods/{folder}/"
        for name, _, tree in MODULES:
            if name != "undertone/methods/registry.py" and not name.startswith(inside):
                assert not any(within(f"undertone.methods.{folder}", module) for module in imported(tree)), name


def test_methods_know_no_study_and_no_plan() -> None:
    above = ("undertone.study", "undertone.plan", "undertone.planned", "undertone.resolve", "undertone.claim")
    for name, _, tree in MODULES:
        if name.startswith("undertone/methods/"):
            assert not any(within(room, module) for room in above for module in imported(tree)), name


OPTIONS = {option for method in METHODS.values() for option in method.options_type.model_fields}
FILES = {file for method in METHODS.values() for file in method.release_format.files}


def knows_of_methods(tree: ast.Module) -> Iterator[str]:
    """What a module says that only a method should: names of methods and files, and reads of options by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (word for word in (*METHODS, *FILES) if word in node.value)
            if node.value in OPTIONS:
                yield node.value
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "options":
            yield from {node.attr} & OPTIONS


# Words that only look like a method's: the field of a caption template, a message's name, a setting of Ray's.
NO_OPTION = {
    ("undertone/captions.py", "token"),
    ("undertone/secagg/transcript.py", "vectors"),
    ("undertone_cli/ray_engine.py", "token"),
}


@pytest.mark.parametrize(("name", "tree"), [(name, tree) for name, _, tree in MODULES])
def test_no_module_outside_knows_a_methods_name_its_files_or_an_option(name: str, tree: ast.Module) -> None:
    if not name.startswith(("undertone/methods/", PUBLIC)):
        assert {(name, word) for word in knows_of_methods(tree)} <= NO_OPTION


def test_what_knows_of_methods_is_found() -> None:
    for source, word in (
        ('token = str(plan.method.options.get("draws", ""))', "draws"),
        ("plan.method.options.draws", "draws"),
        ("getattr(options, 'records', 1)", "records"),
        ('"of dp-lora alone"', "dp-lora"),
        ('load = {"delta.safetensors": 1}', "delta.safetensors"),
    ):
        assert list(knows_of_methods(ast.parse(source))) == [word]
    assert not list(knows_of_methods(ast.parse('method.options.model_dump(mode="json"); records = []')))


@pytest.mark.parametrize("stage", DOORS)
def test_each_stage_has_its_door(stage: str) -> None:
    builders = {name for name, _, tree in MODULES if stage in called(tree)}
    assert builders == DOORS[stage]


@pytest.mark.parametrize("function", CALLERS)
def test_what_only_some_may_call(function: str) -> None:
    callers = {name for name, _, tree in MODULES if function in called(tree) and not name.startswith(PUBLIC)}
    assert callers <= CALLERS[function], f"{function} is called by {callers - CALLERS[function]}"


def test_the_update_takes_a_noised_sum_and_nothing_else_can_reach_a_model() -> None:
    tree = next(tree for name, _, tree in MODULES if name == "undertone_server/update.py")
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [ast.unparse(argument.annotation or ast.Constant(None)) for argument in function.args.args] == [
        "Method",
        "Plan",
        "NDArray[np.float32]",
        "NoisedSum",
    ]


@pytest.mark.parametrize("library", WALLS)
def test_libraries_stay_behind_their_walls(library: str) -> None:
    for name, _, tree in MODULES:
        if any(within(library, module) for module in imported(tree)):
            assert name in WALLS[library], f"{name} imports {library}"


def top_level_imports(tree: ast.Module) -> set[str]:
    """Imports that run when the module is imported: not in functions, not under TYPE_CHECKING."""
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    kept = [node for node in kept if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return imported(ast.Module(body=kept, type_ignores=[]))


def test_planning_and_the_round_loop_import_no_torch() -> None:
    trees = {name: tree for name, _, tree in MODULES}
    heavy = {"torch", "diffusers", "transformers"}

    def reaches(name: str, seen: set[str]) -> set[str]:
        found = set()
        for module in top_level_imports(trees[name]):
            if module.split(".")[0] in heavy:
                found.add(module.split(".")[0])
            for target in (module.replace(".", "/") + ".py", module.replace(".", "/") + "/__init__.py"):
                if target in trees and target not in seen:
                    seen.add(target)
                    found |= reaches(target, seen)
        return found

    for name in trees:
        if name.startswith(TORCH_FREE):
            assert not reaches(name, {name}), name


def test_numpy_and_torch_randomness_only_where_it_is_no_noise() -> None:
    # Rows' own training randomness (PRIVACY 3), LoRA's public start, public images, public control directions, public
    # sampling seeds.
    allowed = {
        "undertone/privacy/rows.py",
        "undertone/methods/lora/method.py",
        "undertone/methods/public.py",
        "undertone/models/base.py",
        "undertone_cli/diagnostics.py",
    }
    makers = {"default_rng", "Philox", "Generator", "manual_seed", "randn", "normal_", "RandomState"}
    for name, _, tree in MODULES:
        if not name.startswith("undertone/pretraining/") and name not in allowed:
            assert not called(tree) & makers, name


def test_the_package_has_one_entropy_and_no_seed_for_it() -> None:
    sources = {
        (name, node.name)
        for name, _, tree in MODULES
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {"bytes", "bits"} <= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    }
    assert sources == {("undertone/privacy/entropy.py", "Entropy"), ("undertone/privacy/entropy.py", "OsEntropy")}


def failpoint_names(tree: ast.AST) -> list[str]:
    """The names that a module's calls of `reached` give; "" where one is no literal."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "reached" in called_name(node)]
    return [call.args[0].value if isinstance(call.args[0], ast.Constant) else "" for call in calls]


def called_name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def test_each_failpoint_stands_at_one_place_and_nothing_in_the_package_can_install_a_handler() -> None:
    used: list[str] = []
    for name, _, tree in MODULES:
        if name == "undertone/failpoints.py":
            continue
        used += failpoint_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "undertone.failpoints":
                assert [alias.name for alias in node.names] == ["reached"], name
            if isinstance(node, ast.Import | ast.ImportFrom) and "failpoints" in ast.unparse(node):
                assert isinstance(node, ast.ImportFrom), name
                assert node.module == "undertone.failpoints", name
    assert sorted(used) == sorted(NAMES)
    source = next(tree for name, _, tree in MODULES if name == "undertone/failpoints.py")
    assert not called(source) & {"append", "extend", "insert", "getenv"}
    assert imported(source) == {"collections.abc", "typing"}


@pytest.mark.parametrize(("name", "tree"), [(name, tree) for name, _, tree in MODULES])
def test_errors_are_raised_not_asserted_and_functions_fit_a_screen(name: str, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{name}:{node.lineno} asserts"
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, f"{name}:{node.lineno} {node.name} is long"


def test_files_hold_one_idea() -> None:
    for name, path, _ in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, name


def test_the_root_pyproject_is_no_flower_app() -> None:
    # A root app would pack every text file that git does not ignore, patients' metadata included.
    assert "[tool.flwr" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
