"""Words that would promise more than a release can give (PRIVACY 24)."""

import ast
import re
from pathlib import Path

import pytest

from tests.arch.tree import MODULES, ROOT, Module

# Where people write it for a patient's id, and where it is said what is never promised.
_IDS = {"undertone/data/unit_ids.py"}
_DENIED = re.compile(r"never|nothing here|no reason|not |missing, anonymous|assessment of anonymity")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.file)
def test_no_text_of_the_programs_promises_that_nobody_can_be_known(module: Module) -> None:
    texts = [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
    said = [text for text in texts if isinstance(text, str) and "anonym" in text.lower()]
    assert not said or module.file in _IDS, said


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda page: page.name)
def test_pages_use_the_word_to_say_what_is_not_promised(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    for sentence in re.split(r"(?<=[.:;|]) ", text):
        assert "anonym" not in sentence.lower() or _DENIED.search(sentence), sentence
