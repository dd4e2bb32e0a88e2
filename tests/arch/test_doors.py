"""The doors: who may build a stage, draw noise, write weights. A new file may do none of it."""

import ast

import pytest

from tests.arch.tree import MODULES, called, is_in

# Who may build a stage (or a receipt): a step cannot be left out by accident. Each place builds it.
BUILDERS = {
    "Contributions": {"undertone_client/compute/kept_rows.py"},
    "ClippedSum": {"undertone/privacy/quantise.py"},
    "ClippedSumWithNoiseShare": {"undertone_client/round/noise_share.py"},
    "MaskedVector": {
        "undertone/privacy/plain_sum.py",
        "undertone_client/round/session.py",
        "undertone_server/collect/plain_round.py",
    },
    "Sum": {
        "undertone/privacy/plain_sum.py",
        "undertone_server/run_folder.py",
        "undertone_server/collect/secure_round.py",
    },
    "SumWithNoiseShares": {"undertone_server/collect/secure_round.py"},
    "NoisedSum": {"undertone_server/gate.py"},
    "Release": {"undertone_server/release.py"},
    "Receipt": {"undertone/privacy/ledger.py"},
}
# Who may call: noise is drawn at the gate alone, a step is taken from a noised sum alone (the diagnostics of a
# simulation, which read private data and say so, are the one exception), weights are written by the release.
CALLERS = {
    "rounded_gaussian": {"undertone_server/gate.py"},
    "discrete_gaussian": {"undertone_client/round/noise_share.py"},
    "add_rounded_gaussian": {"undertone/privacy/noise.py"},
    "add_discrete_gaussian": {"undertone/privacy/noise.py"},
    "WordStream": {"undertone/privacy/noise.py"},
    "step": {
        "undertone_server/update.py",
        "undertone_cli/diagnostics.py",
        "undertone/methods/textual_inversion/inversion.py",  # an optimiser's, within one row
        "undertone/methods/denoiser/warm.py",  # an optimiser's, on public images
        "undertone/evaluation/small_cnn.py",  # an optimiser's, of a classifier that judges
        "undertone/models/drawing.py",  # a scheduler's, while an image is drawn
    },
    "step_from": {"undertone_server/update.py"},
    # A site charges its plan's reservation, and the budget alone charges its ledger.
    "charge": {"undertone_server/gate.py", "undertone_client/round/attempt.py", "undertone_client/site/budget.py"},
    # A base is loaded from the view of its pinned files alone, found on disk, and fetched by one command.
    "from_pretrained": {"undertone/models/base.py"},
    "snapshot_download": {"undertone/models/pinned.py", "undertone/models/fetching.py"},
    "fetch": {"undertone_cli/commands/model.py"},
    "save_file": set(),
    # Of a release, which is public; `parts.py` writes what it is told to in a pipeline's place.
    "save_pretrained": {"undertone_cli/commands/export.py", "undertone/models/parts.py"},
}
# Pretraining writes public weights and steps optimisers of its own.
PUBLIC = {"undertone/pretraining/", "undertone/training/"}


@pytest.mark.parametrize("stage", BUILDERS)
def test_each_stage_has_its_door(stage: str) -> None:
    assert {module.file for module in MODULES if stage in called(module.tree)} == BUILDERS[stage]


@pytest.mark.parametrize("function", CALLERS)
def test_what_only_some_may_call(function: str) -> None:
    callers = {module.file for module in MODULES if function in called(module.tree) and not is_in(module.file, PUBLIC)}
    assert callers <= CALLERS[function], f"{function} is called by {callers - CALLERS[function]}"


def test_the_update_takes_a_noised_sum_and_nothing_else_can_reach_a_model() -> None:
    tree = next(module.tree for module in MODULES if module.file == "undertone_server/update.py")
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [ast.unparse(argument.annotation or ast.Constant(None)) for argument in function.args.args] == [
        "Method",
        "Plan",
        "int",
        "NDArray[np.float32]",  # the public state
        "NDArray[np.float32]",  # what sites were sent, public likewise
        "NoisedSum",
        "Callable[[], Base]",
    ]


def test_the_package_has_one_entropy_and_no_seed_for_it() -> None:
    sources = {
        (module.file, node.name)
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and {"bytes", "bits"} <= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    }
    assert sources == {("undertone/privacy/entropy.py", "Entropy"), ("undertone/privacy/entropy.py", "OsEntropy")}
