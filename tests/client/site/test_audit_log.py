"""The audit log: a closed list of events, a chain that shows every change, and a last line that a power cut tore."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertone.core.canonical import canonical_json
from undertone.errors import AuditLogCorrupt, FolderError, MechanismViolation
from undertone_client.site import audit_log as module
from undertone_client.site.audit_chain import GENESIS, LONGEST_LINE, verify_chain
from undertone_client.site.audit_events import EVENTS, KINDS, checked
from undertone_client.site.audit_log import AuditLog

NOON = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DIGEST, KEY = "ab" * 32, "cd" * 32
GOOD: dict[str, dict[str, Any]] = {
    "site made": {"key": KEY},
    "federation joined": {"coordinator": KEY, "digest": DIGEST, "serial": 2},
    "data set added": {
        "data_set": "xray",
        "unit": "patient",
        "published": 200,
        "epsilon": 8.0,
        "delta": 1e-5,
    },
    "data set updated": {"data_set": "xray"},
    "plan pending": {"digest": DIGEST, "coordinator": KEY},
    "plan approved": {
        "digest": DIGEST,
        "coordinator": KEY,
        "data_set": "xray",
        "operator": "Dr. Zoë O’Neill-Łuk (IT)",
        "epsilon": 4.0,
        "delta": 1e-5,
        "max_attempts": 100,
        "expires": "2027-01-01T00:00:00Z",
        "approver": KEY,
    },
    "plan refused": {"digest": DIGEST, "coordinator": KEY, "verdict": "NotApproved"},
    "plan withdrawn": {"digest": DIGEST, "operator": "Ada"},
    "plan expired": {"digest": DIGEST},
    "study ended": {"digest": DIGEST},
    "unit withdrawn": {"data_set": "xray", "operator": "Ada"},
    "study forgotten": {"digest": DIGEST, "operator": "Ada"},
    "attempt charged": {"digest": DIGEST, "data_set": "xray", "round": 3, "attempt": 1},
}
ANSWERS = {event for event, kind in KINDS.items() if kind.in_answers}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "node.toml").write_text('site = "north"\ndata = "images"\n', encoding="utf-8")
    return folder


def log_of(site: Path) -> Any:
    return AuditLog(site, lambda: NOON)


def files(site: Path) -> list[Path]:
    return sorted((site / "audit").glob("audit-*.jsonl"))


def lines(site: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files(site) for line in path.read_bytes().splitlines()]


def fill(site: Path, rounds: int = 5) -> None:
    for round_ in range(1, rounds + 1):
        log_of(site).append("attempt charged", digest=DIGEST, data_set="xray", round=round_, attempt=1)


def test_every_event_is_written_with_its_facts_and_its_time(site: Path) -> None:
    assert set(GOOD) == set(EVENTS) - {"log opened"} == set(KINDS) - {"log opened"}
    for event, facts in GOOD.items():
        log_of(site).append(event, **facts)
    first, *others = lines(site)
    assert first["event"] == "log opened"
    assert first["facts"] == {"log": 1, "site": "north"}
    assert [(line["event"], line["facts"]) for line in others] == list(GOOD.items())
    assert {line["time"] for line in others} == {"2026-06-01T12:00:00Z"}
    assert [line["number"] for line in others] == list(range(2, len(others) + 2))


def test_any_tool_can_recompute_the_chain(site: Path) -> None:
    fill(site)
    previous = GENESIS
    for data in files(site)[0].read_bytes().splitlines():
        assert json.loads(data)["previous"] == previous
        previous = sha256(data).hexdigest()
    found = verify_chain(site)
    assert (found.newest, found.lines, found.logs, found.site) == (previous, 6, 1, "north")
    assert not found.cut


def test_an_approval_ends_with_a_day_or_a_second_and_nothing_else(site: Path) -> None:
    for expires in ("2027-01-01", "2027-01-01T00:00:00Z"):
        log_of(site).append("plan approved", **(GOOD["plan approved"] | {"expires": expires}))
    for wrong in ("2027-01-01T", "2027-01-01T00:00:00", "2027-01-01 00:00:00Z", "x2027-01-01", "2027-01-01Z", "soon"):
        with pytest.raises(MechanismViolation, match="expires"):
            log_of(site).append("plan approved", **(GOOD["plan approved"] | {"expires": wrong}))


def test_times_are_utc_whatever_the_clock_says(site: Path) -> None:
    east = datetime(2026, 6, 1, 0, 30, tzinfo=timezone(timedelta(hours=9)))
    AuditLog(site, lambda: east).append("plan expired", digest=DIGEST)
    assert lines(site)[-1]["time"] == "2026-05-31T15:30:00Z"
    AuditLog(site).append("plan expired", digest=DIGEST)
    newest = datetime.fromisoformat(lines(site)[-1]["time"])
    assert abs(newest - datetime.now(UTC)) < timedelta(minutes=1)


HOSTILE = [
    "x\ny",
    "x\n",
    "\n",
    "\x1b[2J",
    "a\x00b",
    "\u2028",
    "\u202etxt",
    "\ud800",
    "/srv/images/scan-0001.png",
    "images\\scan-0001.png",
    "../x",
    "Ada/scan-0001.png",
    "Ada\\scan-0001.png",
    "Ada\nLovelace",
    "Ada\tLovelace",
    "",
    "x" * 5000,
    "{}",
    [],
    {},
    ["patient-1"],
    {"patient": "patient-1"},
    b"bytes",
    float("nan"),
    float("inf"),
    -1,
    0,
    10**30,
    True,
    1.5,
    Path("images/scan-0001.png"),
]


@pytest.mark.parametrize("event", GOOD)
def test_each_fact_of_each_event_refuses_what_is_of_another_type(site: Path, event: str) -> None:
    for name in GOOD[event]:
        for value in HOSTILE:
            if isinstance(value, float) and 0 < value < 100 and name == "epsilon":
                continue  # what an epsilon may be
            if value == 0 and name == "epsilon" and not isinstance(value, bool):
                continue
            with pytest.raises(MechanismViolation, match=name) as raised:
                log_of(site).append(event, **(GOOD[event] | {name: value}))
            assert "scan-0001" not in str(raised.value)
            assert "patient-1" not in str(raised.value)
            assert str(raised.value).isprintable()
    assert not (site / "audit").exists()


@pytest.mark.parametrize("event", GOOD)
def test_no_event_takes_a_fact_that_it_does_not_have(site: Path, event: str) -> None:
    for name in ("path", "file", "unit_id", "patient", "records", "units", "count", "reason", "patient-1\n"):
        with pytest.raises(MechanismViolation) as raised:
            log_of(site).append(event, **(GOOD[event] | {name: 1}))
        assert "patient-1" not in str(raised.value)
    for name in GOOD[event]:
        short = {key: value for key, value in GOOD[event].items() if key != name}
        if name in ("expires", "approver") or (name == "operator" and event != "plan approved"):
            log_of(site).append(event, **short)
        else:
            with pytest.raises(MechanismViolation, match=name):
                log_of(site).append(event, **short)


def test_no_other_event_is_written(site: Path) -> None:
    for event in ("log opened", "zero row", "", "plan approved\n", "PLAN APPROVED"):
        with pytest.raises(MechanismViolation):
            log_of(site).append(event, site="north", log=1)
    assert not (site / "audit").exists()


def test_no_type_of_a_fact_holds_free_text_or_a_count() -> None:
    """Of the events' facts, the numbers are public figures and the texts have patterns."""
    numbers = {
        (event, name)
        for event, kind in KINDS.items()
        for name, field in kind.facts.model_fields.items()
        if field.annotation in (int, float)
    }
    assert numbers == {
        ("log opened", "log"),
        ("federation joined", "serial"),
        ("data set added", "published"),
        ("data set added", "epsilon"),
        ("data set added", "delta"),
        ("plan approved", "epsilon"),
        ("plan approved", "delta"),
        ("plan approved", "max_attempts"),
        ("attempt charged", "round"),
        ("attempt charged", "attempt"),
    }


@settings(max_examples=200, deadline=None)
@given(event=st.sampled_from(sorted(GOOD)), data=st.data())
def test_whatever_is_accepted_is_one_printable_line(event: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GOOD[event])))
    value = data.draw(st.text(max_size=120) | st.integers() | st.floats() | st.none())
    try:
        written = checked(event, GOOD[event] | {name: value})
    except MechanismViolation:
        return
    for text in written.values():
        assert not isinstance(text, str) or (text.isprintable() and "/" not in text and "\\" not in text)


def test_the_longest_line_is_bounded(site: Path) -> None:
    for event, facts in GOOD.items():
        name = {"data_set": "x" * 63, "operator": "\U00020000" * 100}
        longest = {key: name.get(key, value) for key, value in facts.items()}
        log_of(site).append(event, **longest)
    assert max(map(len, files(site)[0].read_bytes().splitlines())) < LONGEST_LINE


def test_a_full_file_is_followed_by_the_next_which_carries_its_last_hash(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGEST_FILE", 1500)
    fill(site, 30)
    names = [path.name for path in files(site)]
    assert names[:2] == ["audit-000001.jsonl", "audit-000002.jsonl"]
    assert len(names) > 4
    for before, after in zip(files(site), files(site)[1:], strict=False):
        last, first = before.read_bytes().splitlines()[-1], json.loads(after.read_bytes().splitlines()[0])
        assert first["previous"] == sha256(last).hexdigest()
        assert before.stat().st_size < 1500 + LONGEST_LINE
    assert verify_chain(site).lines == 30 + len(names)
    assert verify_chain(site).logs == len(names)


def test_what_was_written_is_never_changed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_FILE", 1500)
    before: dict[str, bytes] = {}
    for round_ in range(1, 20):
        log_of(site).append("attempt charged", digest=DIGEST, data_set="xray", round=round_, attempt=1)
        now = {path.name: path.read_bytes() for path in files(site)}
        assert all(now[name].startswith(data) for name, data in before.items())
        before = now


def test_each_line_is_flushed_before_append_returns(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(site).append("plan expired", digest=DIGEST)
    flushed: list[bytes] = []
    opened: dict[int, Path] = {}
    real_open, real_sync = os.open, os.fsync

    def watched_open(path: Path, *how: int) -> int:
        descriptor = real_open(path, *how)
        opened[descriptor] = path
        return descriptor

    def watched_sync(descriptor: int) -> None:
        flushed.append(opened[descriptor].read_bytes())
        real_sync(descriptor)

    monkeypatch.setattr(module.os, "open", watched_open)
    monkeypatch.setattr(module.os, "fsync", watched_sync)
    log_of(site).append("plan expired", digest="ef" * 32)
    assert flushed == [files(site)[0].read_bytes()]
    assert b"ef" * 32 in flushed[0]


# --- what `verify` finds ----------------------------------------------------------------------------


def rotated(site: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Three files or more; all lines of all of them."""
    monkeypatch.setattr(module, "_LARGEST_FILE", 1500)
    fill(site, 15)
    assert len(files(site)) > 2
    return [line for path in files(site) for line in path.read_bytes().splitlines(keepends=True)]


def replace_line(site: Path, number: int, line: bytes) -> str:
    """Put another line in place of the number-th of all; "file, line n" of where it stands."""
    at = 0
    for path in files(site):
        kept = path.read_bytes().splitlines(keepends=True)
        if number <= at + len(kept):
            kept[number - at - 1] = line
            path.write_bytes(b"".join(kept))
            return f"{path.name}, line {number - at}"
        at += len(kept)
    raise AssertionError(number)


def test_a_changed_line_is_named_wherever_it_stands(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = rotated(site, monkeypatch)
    for number, line in enumerate(every[:-1], 1):
        forged = line.replace(b'T12:00:00Z"', b'T12:00:01Z"')
        assert forged != line
        where = replace_line(site, number, forged)
        with pytest.raises(AuditLogCorrupt, match=re.escape(where) + " is not the line"):
            verify_chain(site)
        replace_line(site, number, line)
    verify_chain(site)


def test_the_last_line_can_be_changed_only_until_somebody_kept_its_hash(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = rotated(site, monkeypatch)
    kept = verify_chain(site).newest
    replace_line(site, len(every), every[-1].replace(b'"round":15', b'"round":14'))
    verify_chain(site)
    with pytest.raises(AuditLogCorrupt, match=kept):
        verify_chain(site, kept)


def test_any_earlier_hash_can_be_asked_for(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in rotated(site, monkeypatch):
        verify_chain(site, sha256(line.rstrip(b"\n")).hexdigest())
    for wrong in ("0" * 64, "", "AB" * 32):
        with pytest.raises(AuditLogCorrupt, match="older copy"):
            verify_chain(site, wrong)


def test_lines_that_were_removed_or_swapped_are_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = rotated(site, monkeypatch)
    path = files(site)[0]
    data = path.read_bytes()
    kept = data.splitlines(keepends=True)
    for wrong in (kept[:1] + kept[2:], [kept[0], kept[2], kept[1], *kept[3:]], kept[:-1], kept + kept[-1:], kept[1:]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(
            AuditLogCorrupt, match=r"audit-00000[12]\.jsonl, line \d has the number \d+; \d was expected"
        ):
            verify_chain(site)
    path.write_bytes(data)
    assert verify_chain(site).lines == len(every)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_that_is_missing_is_named(site: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    rotated(site, monkeypatch)
    gone, last = files(site)[number], number == len(files(site)) - 1
    gone.unlink()
    if last:
        verify_chain(site)  # only a hash kept elsewhere shows it
    else:
        with pytest.raises(AuditLogCorrupt, match=f"{gone.name} is missing"):
            verify_chain(site)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[" * 3000 + b"\n",
        b"\xff\xfe\n",
        b"x" * (2 * LONGEST_LINE) + b"\n",
        b'{"a":1,"a":2}\n',
        b"null\n",
    ],
)
def test_what_is_no_line_at_all_is_named(site: Path, line: bytes) -> None:
    fill(site)
    for number in (1, 4, 6):
        kept = files(site)[0].read_bytes().splitlines(keepends=True)[number - 1]
        where = replace_line(site, number, line)
        with pytest.raises(AuditLogCorrupt, match=where):
            verify_chain(site)
        replace_line(site, number, kept)


def test_another_spelling_of_a_line_is_a_change(site: Path) -> None:
    fill(site)
    (path,) = files(site)
    *kept, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*kept, last.replace(b'":', b'": ', 1)]))
    with pytest.raises(AuditLogCorrupt, match=r"audit-000001\.jsonl, line 6 is not a line"):
        verify_chain(site)


def test_a_log_opens_at_the_head_of_a_file_alone(site: Path) -> None:
    """Whoever can write there can compute hashes, and still may not put one log into another."""
    fill(site, 1)
    (path,) = files(site)
    last = path.read_bytes().splitlines()[-1]
    forged = json.loads(last) | {"event": "log opened", "facts": {"log": 2, "site": "east"}, "number": 3}
    with path.open("ab") as stream:
        stream.write(canonical_json(forged | {"previous": sha256(last).hexdigest()}) + b"\n")
    with pytest.raises(AuditLogCorrupt, match="line 3 opens a log in the middle"):
        verify_chain(site)


def test_a_log_of_another_site_is_none_of_ours(site: Path, tmp_path: Path) -> None:
    fill(site, 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "node.toml").write_text('site = "east"\n', encoding="utf-8")
    fill(other, 1)
    assert (verify_chain(site).site, verify_chain(other).site) == ("north", "east")
    with pytest.raises(AuditLogCorrupt):
        verify_chain(site, verify_chain(other).newest)


def test_without_a_log_it_says_so(site: Path) -> None:
    with pytest.raises(FolderError, match="no audit log"):
        verify_chain(site)


# --- a power cut ------------------------------------------------------------------------------------


def test_a_line_cut_off_anywhere_is_told_from_a_changed_one_and_the_log_goes_on(site: Path) -> None:
    fill(site, 3)
    (path,) = files(site)
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        found = verify_chain(site)
        assert found.cut
        assert found.lines == 3
        fill(site, 1)
        assert path.read_bytes() == whole[:end]  # never rewritten
        second = files(site)[1]
        head = json.loads(second.read_bytes().splitlines()[0])
        assert head["facts"] == {"log": 2, "site": "north", "cut": sha256(whole[start:end]).hexdigest()}
        again = verify_chain(site)
        assert not again.cut
        assert again.lines == 5
        # What was cut off is part of the chain from now on.
        for wrong in (whole[: end - 1] + b"?", whole[: end - 1], whole[:end] + b"?", whole):
            path.write_bytes(wrong)
            with pytest.raises(AuditLogCorrupt, match=r"audit-00000\d.jsonl, line"):
                verify_chain(site)
        second.unlink()


def test_a_first_line_is_there_whole_or_not_at_all(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_durable", full)
        with pytest.raises(FolderError, match="No space left"):
            log_of(site).append("plan withdrawn", digest=DIGEST)
    assert files(site) == []
    fill(site, 1)
    assert verify_chain(site).lines == 2


APPENDING = """
import sys
from pathlib import Path
from undertone_client.site.audit_log import AuditLog
for round_ in range(1, 10**6):
    AuditLog(Path(sys.argv[1])).append("attempt charged", digest="ab" * 32, data_set="x", round=round_, attempt=1)
    print(round_, flush=True)
"""


def test_whoever_is_killed_while_appending_loses_no_line_that_was_confirmed(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kill in range(4):
        before = verify_chain(site).lines if kill else 0
        with subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(site)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(7 + kill):
                process.stdout.readline()
            process.kill()
            confirmed = 7 + kill + len(process.stdout.readlines())
        found = verify_chain(site)
        assert found.lines >= before + confirmed
        fill(site, 1)
        assert verify_chain(site).lines > found.lines


# --- where the log cannot be written ----------------------------------------------------------------


def break_disk(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """The disk takes `written` bytes of a line, then is full."""
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:written])

    monkeypatch.setattr(module.os, "write", write)


@pytest.mark.parametrize("event", GOOD)
@pytest.mark.parametrize("how", ["full", "rights", "folder", "damaged", "network"])
def test_an_operators_command_stops_and_an_answer_goes_on(
    site: Path, event: str, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(site, 2)
    if how == "full":
        break_disk(monkeypatch, 40)
    elif how == "rights":
        monkeypatch.setattr(module.os, "open", _refuse(PermissionError(13, "Permission denied")))
    elif how == "network":
        monkeypatch.setattr(module.os, "open", _refuse(TimeoutError(110, "Connection timed out")))
    elif how == "folder":
        (site / "audit").rename(site / "away")
        (site / "audit").write_text("", encoding="utf-8")
    else:
        with files(site)[0].open("ab") as stream:
            stream.write(b"rubbish\n")
    with caplog.at_level(logging.ERROR, "undertone.node"):
        if event in ANSWERS:
            log_of(site).append(event, **GOOD[event])
            (record,) = caplog.records
            assert f'"{event}" is missing from the audit log' in record.getMessage()
            assert record.getMessage().isprintable()
        else:
            with pytest.raises((FolderError, AuditLogCorrupt, TimeoutError)):
                log_of(site).append(event, **GOOD[event])
    if how == "full":
        monkeypatch.undo()
        assert verify_chain(site).cut
        fill(site, 1)
        assert verify_chain(site).lines == 5


def _refuse(error: OSError) -> Any:
    def refusing(*_: object) -> int:
        raise error

    return refusing


def test_events_of_answers_are_those_that_a_coordinator_can_cause() -> None:
    assert {"plan pending", "plan refused", "plan expired", "attempt charged"} == ANSWERS


# --- one at a time ----------------------------------------------------------------------------------


def test_threads_and_processes_append_one_at_a_time(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from pathlib import Path; from undertone_client.site.audit_log import AuditLog\n"
        "for n in range(1, 16):\n"
        "    log = AuditLog(Path(sys.argv[1]))\n"
        "    log.append('attempt charged', digest='ab' * 32, data_set='x', round=n, attempt=1)\n"
    )
    end = module._end

    def slow(path: Path) -> Any:
        found = end(path)
        time.sleep(0.002)  # what another one may not use to write
        return found

    monkeypatch.setattr(module, "_end", slow)
    others = [subprocess.Popen([sys.executable, "-c", script, str(site)]) for _ in range(2)]
    threads = [threading.Thread(target=fill, args=(site, 15)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    assert verify_chain(site).lines == 1 + 5 * 15


def test_a_process_that_stopped_while_it_wrote_is_not_waited_for_long(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(site, 1)
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.05)
    with log_of(site)._alone(), pytest.raises(FolderError, match="another process"):
        log_of(site).append("plan withdrawn", digest=DIGEST)
    monkeypatch.setattr(module, "_WAIT_SECONDS", 10.0)
    with log_of(site)._alone():
        waiting = threading.Thread(target=fill, args=(site, 1))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert verify_chain(site).lines == 2
    waiting.join()
    assert verify_chain(site).lines == 3
