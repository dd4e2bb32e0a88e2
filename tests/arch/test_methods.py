"""A method is one folder and one registry line: nothing else in the packages knows its name, files or options."""

import ast
from collections.abc import Iterator

import pytest

from tests.arch.tree import MODULES, Module, imported, is_in
from undertone.methods.registry import METHODS

FOLDERS = {method.__module__.split(".")[2] for method in METHODS.values()}
OPTIONS = {option for method in METHODS.values() for option in method.options_type.model_fields}
FILES = {file for method in METHODS.values() for one in method.formats for file in one.files}
INSIDE = {"undertone/methods/", "undertone/pretraining/", "undertone/training/", "undertone/public_images/"}
# Words that only look like a method's: the field of a caption template, a message's name, a setting of Ray's, a kind of
# UNet and of base.
NO_OPTION = {
    # Commands that start a program.
    ("undertone_cli/commands/coordinator.py", "start"),
    ("undertone_cli/commands/coordinator_start.py", "start"),
    ("undertone_cli/commands/node.py", "start"),
    ("undertone_cli/commands/node_start.py", "start"),
    ("undertone_cli/loopback/federation.py", "start"),
    ("undertone/core/captions.py", "token"),
    ("undertone/secagg/transcript.py", "vectors"),
    ("undertone_cli/engines/ray.py", "token"),
    ("undertone/models/kinds.py", "text"),
    ("undertone_cli/commands/pretrain.py", "text"),
    # Shards of a site: what a plan says of any method whose rows are theirs, what a node keeps of them.
    ("undertone/study/planned_parts.py", "shards"),
    ("undertone/study/resolve.py", "shards"),
    ("undertone_client/approval/page.py", "shards"),
    ("undertone_client/compute/shard_store.py", "shards"),
    ("undertone_cli/commands/plan.py", "shards"),
}


def test_only_the_registry_imports_a_method() -> None:
    """A method's folder is known to itself and to the registry; nothing else in the packages knows that it is there."""
    assert len(FOLDERS) >= 3
    for folder in FOLDERS:
        inside = {f"undertone/methods/{folder}/", "undertone/methods/registry.py"}
        for module in MODULES:
            if not is_in(module.file, inside):
                names = imported(module.tree)
                assert not any(f"{name}.".startswith(f"undertone.methods.{folder}.") for name in names), module.file


def knows_of_methods(tree: ast.Module) -> Iterator[str]:
    """What a module says that only a method should: names of methods and files, and reads of options by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (word for word in (*METHODS, *FILES) if word in node.value)
            if node.value in OPTIONS:
                yield node.value
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "options":
            yield from {node.attr} & OPTIONS


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.file)
def test_no_module_outside_knows_a_methods_name_its_files_or_an_option(module: Module) -> None:
    if not is_in(module.file, INSIDE):
        assert {(module.file, word) for word in knows_of_methods(module.tree)} <= NO_OPTION


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
