"""What the project says of itself in several files: one version, one set of authors, commands that exist."""

import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from undertone import __version__

ROOT = Path(__file__).parents[2]
# Keys of the Citation File Format 1.2.0 that we use, of those it knows; the first four are required.
CITED = {"cff-version", "message", "title", "authors"}
MAY_BE_CITED = CITED | {"type", "version", "date-released", "license", "abstract", "keywords", "repository-code", "url"}


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found


def newest(changelog: str) -> tuple[str, str]:
    """Version and date of the first heading of a changelog."""
    found = re.search(r"(?m)^## (.*)$", changelog)
    heading = re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (unreleased|\d{4}-\d{2}-\d{2})", found[1] if found else "")
    assert heading is not None, f"{found and found[0]} is not '## [1.2.3] - date' or '## [1.2.3] - unreleased'"
    return heading[1], heading[2]


def test_the_citation_file_is_in_its_format(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert CITED <= set(citation) <= MAY_BE_CITED
    assert citation["type"] in {"software", "dataset"}
    assert citation["authors"]
    assert all(set(author) == {"name"} for author in citation["authors"])  # entities, not persons
    texts = [citation[key] for key in ("message", "title", "version", "license", "abstract")]
    assert all(isinstance(text, str) and text for text in [*texts, *citation["keywords"]])


def test_there_is_one_version(citation: dict[str, Any], project: dict[str, Any]) -> None:
    assert "version" in project["project"]["dynamic"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text().count(f'__version__ = "{__version__}"') == 1
    assert citation["version"] == __version__


def test_the_changelogs_newest_heading_is_that_version(citation: dict[str, Any]) -> None:
    version, date = newest((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert version == __version__
    released = citation.get("date-released")
    assert date == ("unreleased" if released is None else released.isoformat())


@pytest.mark.parametrize("heading", ["## Unreleased", "## 0.1.0", "## [0.1.0]", "## [0.1] - 2026-01-01", "none"])
def test_a_heading_without_version_and_date_is_refused(heading: str) -> None:
    with pytest.raises(AssertionError, match="is not"):
        newest(f"# Changelog\n\n{heading}\n")


def test_a_date_in_the_citation_file_is_one() -> None:
    assert isinstance(yaml.safe_load("date-released: 2026-01-02")["date-released"], datetime.date)


def test_authors_and_licence_are_the_same_everywhere(citation: dict[str, Any], project: dict[str, Any]) -> None:
    assert citation["authors"] == project["project"]["authors"] == [{"name": "The Undertone authors"}]
    assert citation["license"] == project["project"]["license"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/releasing.md"])
def test_every_make_target_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert named
    assert named <= targets


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_fences_stand_on_lines_of_their_own(page: Path) -> None:
    """A fence inside a line is text: a page that was wrapped by a program once joined commands to their fences."""
    marked = [line for line in page.read_text(encoding="utf-8").splitlines() if "```" in line]
    assert [line for line in marked if not re.fullmatch(r"\s*```\w*", line)] == []
    assert len(marked) % 2 == 0
