"""Every citation in code, docs, tests, benchmarks and examples leads somewhere.

A rule of docs/PRIVACY.md is cited in one form, the file's name and the rule's number. A section is cited as the page's
path, a comma and its number, or by its anchor. A page that does not ship is not cited at all.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("common", "client", "server", "deployments", "docs", "tests", "benchmarks", "examples")
KINDS = {".py", ".md", ".toml", ".cff", ".txt"}
PRIVACY = ROOT / "docs" / "PRIVACY.md"

_NUMBERS = r"\d+(?:-\d+)?(?:, \d+(?:-\d+)?)*"
_RULES = re.compile(rf"\bPRIVACY ({_NUMBERS})( and \d)?")
_RULE_WITHOUT_NUMBER = re.compile(r"\bPRIVACY (?!\d)[a-z]+ \d+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PAGE = re.compile(rf"(?<![\w/.-])([\w./-]*[\w-]\.md)(#[\w-]+)?(?:[`)]*, (?:(section) )?({_NUMBERS})\b)?")
_PICTURE = re.compile(r"\bdocs/[\w-]+\.png\b")
_FORMS_THAT_ARE_NOT_USED = {
    r"\bDESIG[N]\b": "cites a page that does not ship",
    r"\b[Rr]ules? \d": "cites a rule in another form than PRIVACY and its number",
    r"(?<![\w/])(?:research|shared)/[\w-]+\.md": "cites a page that does not ship",
}


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and path != Path(__file__) and "__pycache__" not in path.parts:
                yield path
    yield from (path for path in sorted(ROOT.glob("*")) if path.suffix in KINDS or path.name == "Makefile")


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link's `#...` may name: `<a id>` and the slug that GitHub makes of each heading."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return frozenset(slugs) | frozenset(re.findall(r'<a id="([\w-]+)"></a>', text))


@cache
def sections(page: Path) -> frozenset[int]:
    """The numbers of its numbered headings."""
    return frozenset(map(int, re.findall(r"(?m)^#+ (\d+)\. ", page.read_text(encoding="utf-8"))))


def numbers(cited: str) -> Iterator[int]:
    """The numbers of "2-4, 10"."""
    for part in cited.split(", "):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def page_of(name: str, file: Path) -> Path | None:
    """The page that a file means by this name: beside it, below docs/ or at the root."""
    places = (file.parent / name, ROOT / "docs" / name, ROOT / name)
    return next((place.resolve() for place in places if place.is_file()), None)


def faults(text: str, file: Path) -> list[str]:
    """What is wrong with the citations of a text that stands in `file`."""
    text = re.sub(r" *\n *(?:# ?)?", " ", text)
    found = [
        f"{match.group()}: {why}" for form, why in _FORMS_THAT_ARE_NOT_USED.items() for match in re.finditer(form, text)
    ]
    found += [f"{match.group()}: write PRIVACY and the number" for match in _RULE_WITHOUT_NUMBER.finditer(text)]
    for match in _RULES.finditer(text):
        found += [f"{match.group()}: rule {n} is not there" for n in numbers(match[1]) if not is_rule(n)]
        found += [f"{match.group()}: write a comma between numbers"] if match[2] else []
    for match in _PAGE.finditer(text):
        found += wrong_page(match, file)
    found += [f"{name}: no such file" for name in _PICTURE.findall(text) if not (ROOT / name).is_file()]
    if file.suffix == ".md":
        found += [wrong for target in _LINK.findall(text) for wrong in wrong_link(target, file)]
    return found


def is_rule(number: int) -> bool:
    return f"rule-{number}" in anchors(PRIVACY)


def wrong_page(match: re.Match[str], file: Path) -> list[str]:
    name, anchor, word, cited = match.groups()
    page = page_of(name, file)
    if page is None:
        return [f"{name}: no such file"]
    found = [f"{match.group()}: no such heading"] if anchor and anchor[1:] not in anchors(page) else []
    found += [f"{match.group()}: leave the word out"] if word else []
    missing = [number for number in numbers(cited or "") if number not in sections(page)] if cited else []
    return found + [f"{match.group()}: {name} has no section {number}" for number in missing]


def wrong_link(target: str, file: Path) -> list[str]:
    """A link of a page leads, from where the page stands, to a file and to an anchor in it."""
    if re.match(r"https?://|mailto:", target):
        return []
    name, _, anchor = target.partition("#")
    page = (file.parent / name).resolve() if name else file
    if not page.exists():
        return [f"({target}): no such file"]
    return [f"({target}): no such heading"] if anchor and anchor not in anchors(page) else []


@pytest.mark.parametrize("file", list(files()), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_citation_leads_somewhere(file: Path) -> None:
    assert not faults(file.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize(
    ("text", "file", "why"),
    [
        ("as DESIGN 2 says", "common/undertone/study/plan.py", "does not ship"),
        ("see research/field.md", "docs/study.md", "does not ship"),
        ("(docs/PRIVACY.md, rule 3)", "common/undertone/study/plan.py", "another form"),
        ("(rules 3 and 14)", "tests/conftest.py", "another form"),
        ("(PRIVACY rule 3)", "docs/study.md", "another form"),
        ("(PRIVACY paragraph 3)", "docs/study.md", "write PRIVACY and the number"),
        ("(PRIVACY 4 and 5)", "docs/study.md", "comma between"),
        ("(PRIVACY 99)", "common/undertone/study/plan.py", "rule 99 is not there"),
        ("(PRIVACY\n# 99)", "common/undertone/study/plan.py", "rule 99 is not there"),
        ("(PRIVACY 25-28)", "common/undertone/study/plan.py", "rule 27 is not there"),
        ("docs/nothing.md has it", "common/undertone/study/plan.py", "no such file"),
        ("(nothing.md)", "docs/study.md", "no such file"),
        ("(docs/secure-aggregation.md, 6, 99)", "common/undertone/study/plan.py", "no section 99"),
        ("(docs/secure-aggregation.md, section 6)", "common/undertone/study/plan.py", "leave the word out"),
        ("docs/study.md#nowhere", "common/undertone/study/plan.py", "no such heading"),
        ("docs/nothing.png", "common/undertone/study/plan.py", "no such file"),
        ("[a](nothing.png)", "docs/study.md", "no such file"),
        ("[a](methods.md#nowhere)", "docs/study.md", "no such heading"),
        ("[a](#nowhere)", "docs/study.md", "no such heading"),
        ("[a](docs/study.md)", "docs/study.md", "no such file"),
    ],
)
def test_each_kind_of_wrong_citation_is_found(text: str, file: str, why: str) -> None:
    assert any(why in fault for fault in faults(text, ROOT / file)), faults(text, ROOT / file)


def test_right_citations_pass() -> None:
    text = "PRIVACY 4-7, 10 and (docs/secure-aggregation.md, 1, 5), study.md, [x](PRIVACY.md#rule-12), docs/PRIVACY.md."
    assert faults(text, ROOT / "docs" / "study.md") == []


def test_every_rule_has_one_anchor_and_every_anchor_its_rule() -> None:
    text = PRIVACY.read_text(encoding="utf-8")
    anchored = re.findall(r'(?m)^<a id="rule-(\d+)"></a>\n\*\*(\d+)\.', text)
    assert all(anchor == rule for anchor, rule in anchored)
    assert [rule for _, rule in anchored] == re.findall(r"(?m)^\*\*(\d+)\.", text)
    assert len(anchored) == len(set(anchored)) == text.count('<a id="rule-') > 15


def test_the_tests_and_modules_that_docs_name_are_there() -> None:
    python = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")]
    functions = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    paths = [f"/{path.relative_to(ROOT)}" for path in python]
    for page in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`([\w/]+\.py)`", text):
            assert any(path.endswith(f"/{name}") for path in paths), f"{page.name} names {name}"
        assert set(re.findall(r"`(test_\w+)`", text)) <= functions, page.name
