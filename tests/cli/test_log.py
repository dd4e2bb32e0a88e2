"""`undertone log verify`: what it prints, and its exit codes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.runs import call
from undertone_client.site.audit_log import AuditLog


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text('site = "north"\n', encoding="utf-8")
    log = AuditLog(tmp_path, lambda: datetime(2026, 6, 1, tzinfo=UTC))
    log.append("site made", key="ab" * 32)
    log.append("plan expired", digest="cd" * 32)
    return tmp_path


NEWEST = "NEWEST"
PRINTED = f"""\
north: the audit log's chain holds
  files: 1
  lines: 3
  newest line: 2026-06-01T00:00:00Z
  newest hash, to keep elsewhere: {NEWEST}
"""


def newest(site: Path) -> str:
    found: str = json.loads(call("log", "verify", site, "--json").stdout)["newest"]
    return found


def test_a_chain_that_holds(site: Path) -> None:
    result = call("log", "verify", site)
    assert result.exit_code == 0, result.output
    assert result.stdout == PRINTED.replace(NEWEST, newest(site))
    assert len(newest(site)) == 64


def test_the_hash_that_was_kept(site: Path) -> None:
    kept = newest(site)
    AuditLog(site).append("plan expired", digest="ef" * 32)
    result = call("log", "verify", site, "--expect", kept)
    assert result.exit_code == 0
    assert "holds, with the line that was kept" in result.stdout
    (path,) = (site / "audit").glob("*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert call("log", "verify", site).exit_code == 0
    result = call("log", "verify", site, "--expect", kept)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"AuditLogCorrupt: no line of the audit log has the hash {kept}")


@pytest.mark.parametrize("wrong", ["", "abc", "AB" * 32, "zz" * 32])
def test_a_hash_that_is_none_is_bad_input(site: Path, wrong: str) -> None:
    result = call("log", "verify", site, "--expect", wrong)
    assert result.exit_code == 2
    assert "64 digits" in result.stderr


def test_a_changed_line(site: Path) -> None:
    (path,) = (site / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"ab" * 32, b"ab" * 31 + b"ac"))
    result = call("log", "verify", site)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("AuditLogCorrupt: audit-000001.jsonl, line 2 is not the line")
    result = call("log", "verify", site, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["holds"] is False
    assert found["fault"].startswith("audit-000001.jsonl, line 2 is not the line")


def test_a_line_that_was_cut_off(site: Path) -> None:
    (path,) = (site / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-10])
    result = call("log", "verify", site)
    assert result.exit_code == 0
    assert "WARN the last line was cut off" in result.stdout
    assert "lines: 2" in result.stdout
    found = json.loads(call("log", "verify", site, "--json").stdout)
    assert (found["holds"], found["cut_off"], found["lines"], found["site"]) == (True, True, 2, "north")


def test_without_a_log(tmp_path: Path) -> None:
    result = call("log", "verify", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("FolderError: ")


def test_verifying_writes_nothing(site: Path) -> None:
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    call("log", "verify", site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
