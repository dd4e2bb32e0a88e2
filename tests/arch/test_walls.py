"""The walls: which library may be imported where. What no place is named for may import none of them."""

import pytest

from tests.arch.tree import MODULES, at_import, called, imported, is_in

# A place is a file, or a folder with all that will ever be in it.
WALLS: dict[str, set[str]] = {
    "flwr": {
        "undertone/wire/flower.py",
        "undertone_client/app.py",
        "undertone_client/relay/",
        "undertone_server/app.py",
        "undertone_server/collect/sites.py",
        "undertone_server/run_study.py",
        "undertone_server/home/fleet.py",
        "undertone_cli/engines/",
    },
    "grpc": {"undertone/wire/node_pb2_grpc.py", "undertone_client/service/"},
    "grpc_health": {"undertone_client/service/"},
    "ray": {"undertone_cli/engines/ray.py"},
    "dp_accounting": {"undertone/privacy/accounting.py"},
    "scipy": {"undertone/privacy/noise.py"},
    "opacus": {"undertone/gradients/fallback.py"},
    "opendp": set(),
    "peft": {"undertone/methods/lora/adapters.py"},
    "huggingface_hub": {"undertone/models/pinned.py", "undertone/models/fetching.py"},
    "socket": {"undertone_cli/processes.py"},
    "http": set(),
    "urllib": set(),
    "requests": set(),
    "httpx": {
        "undertone/preflight/fleet.py",
        "undertone_client/relay/runtime_api.py",
        "undertone_server/home/fleet.py",
    },
    "random": set(),
    "secrets": {"undertone_cli/commands/generate.py"},
    "sklearn": {"undertone/evaluation/", "undertone_cli/commands/demo.py"},
    "torchmetrics": {"undertone/evaluation/frechet.py", "undertone/evaluation/inception.py"},
    "safetensors.numpy": {"undertone_server/release.py", "undertone_cli/commands/export.py"},
}
HEAVY = {"torch", "diffusers", "transformers"}
# Where importing a module may load torch. Everything else plans, waits, asks, charges and checks without it.
TORCH = {
    "undertone/gradients/",
    "undertone/evaluation/",
    "undertone/training/",
    "undertone/pretraining/",
    "undertone/models/base.py",
    "undertone/models/drawing.py",
    "undertone/models/parts.py",
    "undertone/models/tokens.py",
    "undertone/models/samplers.py",
    "undertone/methods/losses.py",
    "undertone/methods/gradient/trained.py",
    "undertone/methods/gradient/unit_gradients.py",
    "undertone/methods/denoiser/denoising.py",
    "undertone/methods/denoiser/drawing.py",
    "undertone/methods/denoiser/warm.py",
    "undertone/methods/sad/student.py",
    "undertone/methods/ldm/blocks.py",
    "undertone/methods/prototypes/drawer.py",
    "undertone/methods/lora/adapters.py",
    "undertone/methods/textual_inversion/inversion.py",
    "undertone/methods/textual_inversion/trained.py",
    # Programs that load a base: a node that computes, a coordinator that draws samples, diagnostics.
    "undertone_client/compute/",
    "undertone_client/round/attempt.py",
    "undertone_client/node.py",
    "undertone_client/app.py",
    "undertone_client/service/running.py",
    "undertone_server/release.py",
    "undertone_server/starting.py",
    "undertone_server/run_study.py",
    "undertone_server/app.py",
    "undertone_cli/diagnostics.py",
    "undertone_cli/evaluating/",
}
# Randomness that is no noise: rows' own (PRIVACY 3), public images, public directions, public control directions,
# public sampling seeds, what a release draws, public choices of an evaluation.
RANDOM = {
    "undertone/privacy/unit_randomness.py",
    "undertone/models/base.py",
    "undertone/models/samplers.py",
    "undertone/methods/public.py",
    "undertone/methods/denoiser/initial_weights.py",
    "undertone/methods/denoiser/warm.py",
    "undertone/methods/gradient/directions.py",
    "undertone/methods/sad/",  # queries' and public starts of networks: a shard has a generator of its own
    "undertone/methods/prototypes/public_latents.py",
    "undertone/methods/prototypes/drawer.py",
    "undertone/training/",
    "undertone/pretraining/",
    "undertone/public_images/",
    "undertone/evaluation/resampling.py",
    "undertone/evaluation/small_cnn.py",
    "undertone_cli/diagnostics.py",
    "undertone_cli/evaluating/",
}


def within(name: str, module: str) -> bool:
    return module == name or module.startswith(name + ".")


@pytest.mark.parametrize("library", WALLS)
def test_libraries_stay_behind_their_walls(library: str) -> None:
    for module in MODULES:
        if any(within(library, name) for name in imported(module.tree)):
            assert is_in(module.file, WALLS[library]), f"{module.file} imports {library}"


def test_nothing_but_the_named_places_loads_torch() -> None:
    trees = {module.name: at_import(module.tree) for module in MODULES}

    def reaches(name: str, seen: set[str]) -> set[str]:
        names = imported(trees[name])
        found = {top for top in HEAVY if any(within(top, other) for other in names)}
        for target in (names & set(trees)) - seen:
            seen.add(target)
            found |= reaches(target, seen)
        return found

    for module in MODULES:
        if not is_in(module.file, TORCH):
            assert not reaches(module.name, {module.name}), module.file


def test_each_named_place_is_there() -> None:
    files = {module.file for module in MODULES}
    for place in set().union(*WALLS.values(), TORCH, RANDOM):
        assert any(is_in(file, {place}) for file in files), f"{place} is gone"


def test_numpy_and_torch_randomness_only_where_it_is_no_noise() -> None:
    makers = {"default_rng", "Philox", "Generator", "manual_seed", "randn", "normal_", "RandomState"}
    for module in MODULES:
        if not is_in(module.file, RANDOM):
            assert not called(module.tree) & makers, module.file
