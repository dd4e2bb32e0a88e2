"""What another party wrote stays a value: in YAML, Markdown, Python and shell, whatever it holds."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.world import make_plan
from undertone.core.quoting import LONGEST, markdown_code, markdown_text, python_text, shell_text, yaml_text
from undertone.core.text import shown
from undertone.methods.registry import release_formats
from undertone.methods.release_format import Description
from undertone.pretraining.card import model_card as pretrained_card
from undertone.pretraining.config import load_config
from undertone.study.plan import Plan
from undertone_server.card import model_card

pytestmark = pytest.mark.usefixtures("dummy_method")

ROOT = Path(__file__).parents[2]
KINDS = [one.describe() for one in release_formats()]
HOSTILE = (
    '").images[0]; import os; os.system("id")  #',
    "'); import os  #",
    "a\n```\n\n# Approved\n```python",
    "```",
    "`code` ``more``",
    "<script>alert(1)</script> <!-- x",
    "[click](https://example.org) https://example.org www.example.org ![x](y)",
    "mit\n- gpl\nbase_model: other\n---\n# x",
    '"quoted" \\ {placeholder} {0} %s',
    "\x1b[31m\u202e\u2028\x85\x00\ud800",
    "$(id) `id` $HOME",
    "| a | b |",
    "\U0001f600 ä" + "x" * 10_000,
    "- ",
    "",
)
texts = (
    st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=40) | st.text("`*_#<>[]()'\"\\\n-:{}$|&;", max_size=12)
)


@pytest.fixture(scope="module")
def plan(dummy_base: Path) -> Plan:
    return make_plan(dummy_base, {"north": 3, "east": 2})


def written_by(plan: Plan, study: str, base: str, licence: str) -> Plan:
    model = plan.model.model_copy(update={"base": base, "licence": licence})
    return plan.model_copy(update={"study": study, "model": model})


def parts(card: str) -> tuple[dict[str, object], list[Token]]:
    """Front matter, and the tokens of the Markdown below it."""
    start, front, body = re.split(r"^---$", card, maxsplit=2, flags=re.M)
    assert start == ""
    return yaml.safe_load(front), MarkdownIt("commonmark").enable("table").parse(body)


def inline(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from inline(token.children or [])


def said(token: Token) -> str:
    """The text of a heading or paragraph as a reader sees it."""
    return "".join(child.content for child in token.children or [])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(study=texts, base=texts, licence=texts, prompt=texts, described=st.sampled_from(KINDS))
@example(HOSTILE[0], HOSTILE[2], HOSTILE[7], HOSTILE[0], KINDS[0])
@example(HOSTILE[9], HOSTILE[4], HOSTILE[5], HOSTILE[2], KINDS[1])
def test_a_card_says_what_it_should_whoever_wrote_its_values(
    plan: Plan, study: str, base: str, licence: str, prompt: str, described: Description
) -> None:
    card = model_card(written_by(plan, study, base, licence), {"": prompt}, 2, described)
    assert len(card) < 8000
    card.encode()
    front, tokens = parts(card)
    assert front == {
        "license": shown(licence, LONGEST),
        "base_model": shown(base, LONGEST),
        "tags": ["undertone", "differential-privacy", "synthetic"],
    }
    python, shell = (token for token in tokens if token.type == "fence")
    assert (python.info, shell.info) == ("python", "sh")
    told = prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]}..."
    if described.program:  # its lines are the method's; a prompt is a string in them, and nothing else
        assert built_of(python.content) == built_of(
            described.program.format(pipeline=described.pipeline, load=described.load, prompt="''")
        )
        assert told in [node.value for node in ast.walk(ast.parse(python.content)) if isinstance(node, ast.Constant)]
    else:
        assert len(ast.parse(python.content).body) == 3 + len(ast.parse(described.load).body)
        assert strings_given_to(python.content, "pipeline") == [told]
    assert shlex.split(shell.content)[:5] == ["undertone", "generate", ".", "--prompt", shown(prompt, LONGEST)]
    assert len(shell.content.splitlines()) == 1
    headings = [said(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert [one.strip() for one in headings] == [shown(study, LONGEST).strip(), "What it reveals", "Limits"]
    kinds = {token.type for token in inline(tokens)}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "table_open", "hr", "em_open"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(texts.filter(str.strip), min_size=2, max_size=3, unique=True), prompt=texts)
@example(list(HOSTILE[:3]), HOSTILE[5])
def test_a_card_says_its_classes_whoever_named_them(plan: Plan, names: list[str], prompt: str) -> None:
    _, tokens = parts(model_card(plan, dict.fromkeys(names, prompt), 2, KINDS[0]))
    headings = [said(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Prompts by class", "What it reveals", "Limits"]
    listed = [said(tokens[index + 2]) for index, token in enumerate(tokens) if token.type == "list_item_open"]
    for name, line in zip(names, listed, strict=False):
        assert line.lstrip().startswith(shown(name, LONGEST).strip())
    assert not {token.type for token in inline(tokens)} & {"html_inline", "html_block", "link_open", "image", "hr"}


def built_of(source: str) -> list[type[ast.AST]]:
    """The kinds of a program's parts, in order."""
    return [type(node) for node in ast.walk(ast.parse(source))]


def strings_given_to(source: str, name: str) -> list[object]:
    """The first arguments of calls of `name`; the source has calls of a pipeline alone."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert {ast.unparse(call.func) for call in calls} <= {
        "StableDiffusionPipeline.from_pretrained",
        "pipeline.load_textual_inversion",
        "pipeline.load_lora_weights",
        "load_file",
        "words.items",
        name,
    }
    return [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == name]


@given(texts)
def test_each_language_reads_back_what_was_written(text: str) -> None:
    assert yaml.safe_load(f"a: {yaml_text(text)}\n") == {"a": shown(text, LONGEST)}
    assert shlex.split(shell_text(text)) == [shown(text, LONGEST)]
    assert ast.literal_eval(python_text(text, 20_000)) == text
    assert python_text(text).isprintable()
    for spelled, kind in ((markdown_code(text), "code_inline"), (markdown_text(text), "text")):
        tokens = MarkdownIt("commonmark").parse(f"before {spelled} after")
        children = list(inline(tokens[1:2]))[1:]
        if shown(text, LONGEST).strip():
            assert {token.type for token in children} <= {kind, "text", "text_special"}
            assert shown(text, LONGEST).strip() in said(tokens[1])


def test_a_cell_of_a_table_stays_one_cell() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(f"| a |\n|---|\n| {markdown_text('x | y | `z | w`')} |\n")
    cells = [said(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "td_open"]
    assert cells == ["x | y | `z | w`"]


def test_no_address_becomes_a_link_where_bare_addresses_do() -> None:
    """GitHub and the hub link bare addresses; an escaped colon or dot ends them."""
    assert "://" not in markdown_text("https://example.org")
    assert "www." not in markdown_text("www.example.org")


@pytest.mark.parametrize("value", HOSTILE)
def test_the_card_of_a_pretrained_base_too(value: str, tmp_path: Path) -> None:
    config = load_config(ROOT / "examples" / "pretrain-folder.toml")
    data = config.data.model_copy(update={"licence": value, "caption": value})
    autoencoder = config.autoencoder.model_copy(update={"base": value})
    pretrain = config.pretrain.model_copy(update={"name": value})
    del tmp_path
    changed = config.model_copy(update={"data": data, "autoencoder": autoencoder, "pretrain": pretrain})
    front, tokens = parts(pretrained_card(changed, 10, classes=[value, "b"]))
    assert front["license"] == shown(value, LONGEST)
    headings = [said(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert [one.strip() for one in headings] == [shown(value, LONGEST).strip(), "Data", "Recipe", "Limits"]
    assert not {token.type for token in inline(tokens)} & {"html_inline", "html_block", "link_open", "image", "hr"}
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) in (4, 5)
