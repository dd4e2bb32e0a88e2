"""After approval a site works from registered records; what became of one since is a zero row (PRIVACY 17)."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.dummy import DIMENSION
from tests.support.entropy import InsecureTestEntropy
from tests.support.images import pixels
from tests.support.world import World, data_of, oracle_row
from undertone.core.canonical import sha256_hex
from undertone.data.metadata import LONGEST_LINE
from undertone.errors import DataError, FolderError
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.wire.messages import Reply
from undertone_client.registration.checking import check_site
from undertone_client.registration.registered import register
from undertone_client.registration.stored import registered
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.budget import free, reserve
from undertone_client.site.enrol import update_data_set
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]
PATIENTS = {"patient-0", "patient-1", "patient-2"}


def metadata(world: World) -> Path:
    return world.folder / "data" / "north" / "metadata.csv"


def lines_of(world: World) -> list[str]:
    return metadata(world).read_text(encoding="utf-8").splitlines()


def put(world: World, lines: list[str]) -> None:
    metadata(world).write_text("\n".join(lines) + "\n", encoding="utf-8")


def change_line(number: int, change: Callable[[str], str]) -> Callable[[World], None]:
    """Change one line, the header being line 1."""

    def apply(world: World) -> None:
        lines = lines_of(world)
        lines[number - 1] = change(lines[number - 1])
        put(world, lines)

    return apply


def image(world: World, number: int) -> Path:
    return world.folder / "data" / "north" / world.records["north"][number]["file_name"]


def remove(world: World, path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def both_lines_of_patient_1(change: Callable[[str], str]) -> Callable[[World], None]:
    def apply(world: World) -> None:
        for number in (4, 5):
            change_line(number, change)(world)

    return apply


def as_pipe(world: World) -> None:
    metadata(world).unlink()
    os.mkfifo(metadata(world))


def not_a_number(world: World) -> None:
    for number in (2, 3):
        values = np.full((8, 8), np.nan, dtype=np.float32)
        image(world, number).unlink()
        Image.fromarray(values).save(image(world, number), format="TIFF")


def other_pictures(world: World) -> None:
    for number in (2, 3):
        Image.fromarray(pixels(900 + number, 8)).save(image(world, number))


def another_patients_pictures(world: World) -> None:
    """As bytes that the site knows, and that were compared with other data sets; they are still not this patient's."""
    for number in (2, 3):
        shutil.copyfile(image(world, number + 2), image(world, number))


def endless_line(world: World) -> None:
    lines = lines_of(world)
    put(world, [*lines[:3], "x" * (3 * LONGEST_LINE), *lines[5:]])


def bad_bytes(world: World) -> None:
    metadata(world).write_bytes(metadata(world).read_bytes().replace(b"patient-1", b"patient-\xff"))


def quote_without_end(world: World) -> None:
    """Read as one file, all lines after it would be one value."""
    change_line(4, lambda line: line.replace("patient-1", '"patient-1'))(world)
    change_line(5, lambda line: line.replace("patient-1", ""))(world)


def links_to(target: Callable[[World], Path]) -> Callable[[World], None]:
    """Both images of patient-1 become links."""

    def apply(world: World) -> None:
        for number in (2, 3):
            there = target(world)
            if not there.exists():
                shutil.copyfile(image(world, number), there)
            image(world, number).unlink()
            image(world, number).symlink_to(there)

    return apply


# fault -> what it does to north, and which of its patients end without a row
FAULTS: dict[str, tuple[Callable[[World], Any], set[str]]] = {
    "a quote that never ends": (quote_without_end, {"patient-1"}),
    "a row too short": (both_lines_of_patient_1(lambda line: line.rsplit(",", 1)[0]), {"patient-1"}),
    "a row too long": (both_lines_of_patient_1(lambda line: line + ",more"), {"patient-1"}),
    "rows that vanished": (lambda world: put(world, [*lines_of(world)[:3], *lines_of(world)[5:]]), {"patient-1"}),
    "an id that changed": (both_lines_of_patient_1(lambda line: line.replace("patient-1", "patient-9")), {"patient-1"}),
    "an id that became another's": (
        both_lines_of_patient_1(lambda line: line.replace("patient-1", "patient-2")),
        {"patient-1"},
    ),
    "an id that is gone": (both_lines_of_patient_1(lambda line: line.replace("patient-1", "")), {"patient-1"}),
    "a file name that changed": (both_lines_of_patient_1(lambda line: line.replace(".png", ".gif")), {"patient-1"}),
    "bytes that are no text": (bad_bytes, {"patient-1"}),
    "an endless line": (endless_line, {"patient-1"}),
    "values that are not numbers": (not_a_number, {"patient-1"}),
    "other pictures in their place": (other_pictures, {"patient-1"}),
    "another patient's pictures in their place": (another_patients_pictures, {"patient-1"}),
    "links to another patient's image": (links_to(lambda world: image(world, 4)), {"patient-1"}),
    "links to an image that nobody registered": (
        links_to(lambda world: image(world, 0).with_name("new")),
        {"patient-1"},
    ),
    "links out of the folder": (links_to(lambda world: world.folder / "away.png"), {"patient-1"}),
    "links that turn in a circle": (links_to(lambda world: image(world, 3)), {"patient-1"}),
    "one record of two": (change_line(4, lambda line: "nonsense"), set()),
    "rows twice": (lambda world: put(world, lines_of(world) + lines_of(world)[1:]), set()),
    "another claims the file": (
        lambda world: put(world, [*lines_of(world), lines_of(world)[1].replace("patient-0", "patient-1")]),
        set(),
    ),
    "a new patient": (lambda world: put(world, [*lines_of(world), "images/scan-0000.png,patient-7,mass"]), set()),
    "the caption's column gone": (
        lambda world: put(world, [line.rsplit(",", 1)[0] for line in lines_of(world)]),
        set(),
    ),
    "other words": (lambda world: put(world, [line.replace("mass", "clear") for line in lines_of(world)]), set()),
    "another order": (lambda world: put(world, [lines_of(world)[0], *reversed(lines_of(world)[1:])]), set()),
    "the unit's column gone": (change_line(1, lambda line: line.replace("patient_id", "who")), PATIENTS),
    "a header of noise": (change_line(1, lambda line: '"'), PATIENTS),
    "metadata of noise": (lambda world: metadata(world).write_bytes(bytes(range(256)) * 40), PATIENTS),
    "metadata emptied": (lambda world: metadata(world).write_bytes(b""), PATIENTS),
    "metadata gone": (lambda world: metadata(world).unlink(), PATIENTS),
    "metadata a folder": (lambda world: (metadata(world).unlink(), metadata(world).mkdir()), PATIENTS),
    "metadata a pipe": (as_pipe, PATIENTS),
    "images gone": (lambda world: remove(world, metadata(world).parent / "images"), PATIENTS),
    "folder emptied": (lambda world: (remove(world, metadata(world).parent), metadata(world).parent.mkdir()), PATIENTS),
    "folder gone": (lambda world: remove(world, metadata(world).parent), PATIENTS),
    "folder a file": (
        lambda world: (remove(world, metadata(world).parent), metadata(world).parent.write_text("x")),
        PATIENTS,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_becomes_of_a_record_moves_its_own_row_alone_and_shows_nowhere_else(make_world: Make, fault: str) -> None:
    world = make_world({"north": 6, "east": 6, "south": 4})
    oracle = {patient: oracle_row(world, "north", patient) for patient in PATIENTS}
    spoil, without = FAULTS[fault]
    spoil(world)
    good = world.ask("prepare", "east"), world.ask("plain_input", "east")
    bad = world.ask("prepare"), world.ask("plain_input")
    rows = world.rows()
    assert set(rows) == PATIENTS
    for patient in PATIENTS - ({"patient-1"} if fault == "one record of two" else without):
        np.testing.assert_array_equal(rows[patient], oracle[patient])
    assert not any(rows[patient].any() for patient in without)
    if without:
        assert "zero row" in world.log()
        assert all(patient in world.log() for patient in without)
    if fault == "one record of two":
        assert rows["patient-1"][-2] == 1  # one image where there were two
    for ours, theirs in zip(good, bad, strict=True):
        assert _public(ours) == _public(theirs)
    assert bad[1].words is not None
    assert bad[1].words.shape == (DIMENSION,)
    assert bool(bad[1].words.any()) == (without != PATIENTS)


def test_coins_fall_over_the_registered_units_whatever_the_metadata_say_now(make_world: Make) -> None:
    """A site whose file vanished draws as many coins as one whose file is whole."""
    samples = []
    for spoil in (lambda _world: None, FAULTS["metadata gone"][0]):
        world = make_world({"north": 40, "east": 4}, sampling_rate=0.5, max_attempts=2)
        spoil(world)
        assert world.node(entropy=InsecureTestEntropy(3)).handle(world.request()).error == ""
        samples.append(set(world.rows()))
        shutil.rmtree(world.folder)
    assert samples[0] == samples[1]
    assert 0 < len(samples[0]) < 20


def test_a_link_that_changes_its_target_after_registration_is_a_zero_row(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=2)
    site = SiteDir(world.sites["north"])
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    store = metadata(world).parent / "store.png"
    image(world, 2).rename(store)
    image(world, 2).symlink_to(store)
    table = register(site, world.plan, data_of(site))
    assert [record.target for record in table.records[1:4]] == ["", "store.png", ""]
    assert registered(site, world.plan) == table
    world.ask("prepare")
    assert "zero row" not in world.log()
    assert world.rows()["patient-1"][-2] == 2  # both its images
    assert check_site(site).problems == []

    image(world, 2).unlink()
    image(world, 2).symlink_to(image(world, 0))
    world.ask("prepare", round=2)
    assert world.rows(round_=2)["patient-1"][-2] == 1
    assert "leads to another file than when it was registered" in world.log()
    problems = [str(problem) for problem in check_site(site).problems]
    assert any("leads to another file than when it was registered: a zero row" in problem for problem in problems)


def exchanged_pictures(world: World) -> None:
    before = [image(world, number).read_bytes() for number in (2, 3, 4, 5)]
    for number, data in zip((4, 5, 2, 3), before, strict=True):
        image(world, number).write_bytes(data)


@pytest.mark.parametrize("replace_them", [other_pictures, exchanged_pictures])
def test_contents_that_were_not_compared_are_not_registered(
    make_world: Make, replace_them: Callable[[World], None]
) -> None:
    """Between `data update` and `approve`: they may be an image of another data set, which has a budget of its own."""
    world = make_world()
    site = SiteDir(world.sites["north"])
    (path,) = (site.folder / "registered").iterdir()
    path.unlink()
    replace_them(world)
    with pytest.raises(
        DataError, match=r"[24] records are new to data set data, by name, unit or contents, .*scan-0002"
    ):
        register(site, world.plan, data_of(site))
    assert not path.exists()


def test_one_image_of_two_units_is_not_registered(make_world: Make) -> None:
    """Each of them was compared, one after the other: a file went from one patient to another and came back."""
    world = make_world()
    site = SiteDir(world.sites["north"])
    (path,) = (site.folder / "registered").iterdir()
    path.unlink()
    mine, hers = image(world, 2), image(world, 4)
    before = mine.read_bytes(), hers.read_bytes()
    hers.write_bytes(before[0])
    mine.write_bytes(before[1])
    update_data_set(site, "data")
    mine.write_bytes(before[0])
    with pytest.raises(DataError, match=r"scan-0004\.png and images/scan-0002\.png are one image, byte for byte"):
        register(site, world.plan, data_of(site))
    assert not path.exists()


def instead(site: SiteDir, before: Plan, after: Plan) -> None:
    """The cap holds one of the two plans."""
    with Ledger.open(site.ledger) as ledger:
        free(ledger, before.digest, "ended")
        reserve(ledger, after, "data")


def test_latents_of_other_contents_under_the_same_name_are_not_used(make_world: Make) -> None:
    """A second plan registers the new contents of a file; to the first, whose file it was too, it is missing."""
    world = make_world(rounds=2, max_attempts=2)
    site = SiteDir(world.sites["north"])
    world.ask("prepare")
    before = world.rows()["patient-1"][-2]
    Image.fromarray(pixels(902, 8)).save(image(world, 2))
    update_data_set(site, "data")
    other = world.plan.model_copy(update={"study": "another"})
    register(site, other, data_of(site))
    instead(site, world.plan, other)
    reply = world.node().handle(world.request(**world.signed(other)))
    assert reply.error == ""
    with AttemptStore(site.attempt_store) as store:
        assert store.rows((other.digest, 1, 1))["patient-1"][-2] == before
    instead(site, other, world.plan)
    world.ask("prepare", round=2)
    assert world.rows(round_=2)["patient-1"][-2] == before - 1
    assert "it is not the file that was registered" in world.log()


def test_node_check_names_a_file_that_changed(make_world: Make) -> None:
    world = make_world()
    other_pictures(world)
    problems = [str(problem) for problem in check_site(SiteDir(world.sites["north"])).problems]
    assert len(problems) == 2
    assert all("holds other bytes than when it was registered: a zero row" in problem for problem in problems)


def test_images_and_metadata_may_come_back(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=2)
    whole = metadata(world).parent
    whole.rename(whole.with_name("away"))
    world.ask("prepare")
    assert not any(row.any() for row in world.rows().values())
    whole.with_name("away").rename(whole)
    world.ask("prepare", round=2)
    assert all(row.any() for row in world.rows(round_=2).values())


def test_values_over_several_lines_are_found_again(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    change_line(3, lambda line: line.replace("clear", '"clear,\nor ""nearly"""'))(world)
    table = register(site, world.plan, data_of(site))
    assert table.records[1].columns == {"finding": 'clear,\nor "nearly"'}
    assert [record.lines for record in table.records[:3]] == [(2, 2), (3, 4), (5, 5)]
    world.ask("prepare")
    assert "zero row" not in world.log()
    assert world.rows()["patient-0"][-2] == 2


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_other_line_ends_and_a_mark_lose_nothing(make_world: Make, ending: str, mark: bytes) -> None:
    world = make_world()
    metadata(world).write_bytes(mark + ending.join(lines_of(world)).encode())
    world.ask("prepare")
    assert "zero row" not in world.log()


def test_jsonl_is_judged_line_by_line_too(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    (site.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    metadata(world).unlink()
    lines = [json.dumps(row) for row in world.records["north"]]
    path = metadata(world).with_suffix(".jsonl")
    path.write_text("\n".join(lines), encoding="utf-8")
    register(site, world.plan, data_of(site))
    lines[2:4] = ["[" * 100_000, '{"file_name": NaN}']
    path.write_text("\n".join(lines), encoding="utf-8")
    world.ask("prepare")
    assert {patient for patient, row in world.rows().items() if row.any()} == PATIENTS - {"patient-1"}


def test_a_request_registers_nothing(make_world: Make) -> None:
    """A digest alone in policy.toml, or a lost file: a request must not judge records, nor change who is counted."""
    world = make_world()
    (SiteDir(world.sites["north"]).folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    change_line(3, lambda _line: "broken")(world)
    reply = world.ask("prepare")
    assert (reply.error, reply.words) == ("NotApproved", None)
    assert "approve it again" in reply.message
    assert registered(SiteDir(world.sites["north"]), world.plan) is None


def test_a_registration_is_kept_whatever_the_metadata_say_later(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    before = registered(site, world.plan)
    FAULTS["a new patient"][0](world)
    assert register(site, world.plan, data_of(site)) == before == registered(site, world.plan)


def test_only_the_columns_of_the_caption_are_kept(make_world: Make) -> None:
    world = make_world()
    table = registered(SiteDir(world.sites["north"]), world.plan)
    assert table is not None
    assert {name for record in table.records for name in record.columns} == {"finding"}


@pytest.mark.parametrize("position", [0, 0.3, 0.6, 0.99])
def test_a_damaged_registration_is_found_out(make_world: Make, position: float) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    (path,) = (site.folder / "registered").iterdir()
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(FolderError, match="damaged"):
        registered(site, world.plan)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FolderError, match="damaged"):
        registered(site, world.plan)


def test_a_registration_that_another_wrote_is_not_believed(make_world: Make) -> None:
    """Whoever can write there and has not the node's secret: he would choose whose images the plan reads."""
    world = make_world()
    site = SiteDir(world.sites["north"])
    (path,) = (site.folder / "registered").iterdir()
    body = path.read_bytes()[:-65].replace(b"patient-1", b"patient-0")
    for seal in (sha256_hex(body), sha256_hex(b"")):
        path.write_bytes(body + seal.encode() + b"\n")
        with pytest.raises(FolderError, match="damaged, or not this node's"):
            registered(site, world.plan)
    shutil.copyfile(world.sites["east"] / "registered" / path.name, path)
    with pytest.raises(FolderError, match="damaged, or not this node's"):
        registered(site, world.plan)


def test_bad_metadata_are_named_where_they_are_to_be_registered(make_world: Make) -> None:
    world = make_world()
    site = SiteDir(world.sites["north"])
    (path,) = (site.folder / "registered").iterdir()
    path.unlink()
    FAULTS["a row too short"][0](world)
    with pytest.raises(DataError, match=r"2 records cannot be used; the first: .*metadata\.csv, line 4"):
        register(site, world.plan, data_of(site))
    assert not path.exists()


def test_a_name_cannot_write_lines_into_the_log(make_world: Make) -> None:
    site = SiteDir(make_world().sites["north"])
    site.log("zero row: a\n2026-01-01T00:00:00Z forged \x1b[31m\udcff")
    (line,) = (site.folder / "node.log").read_text(encoding="utf-8").splitlines()
    assert "\\n2026-01-01" in line


def test_many_lost_records_are_a_few_lines_and_a_number(make_world: Make) -> None:
    world = make_world({"north": 120, "east": 4})
    shutil.rmtree(metadata(world).parent / "images")
    world.ask("prepare")
    assert world.log().count("cannot be read as an image") == 20
    assert "and 100 more like it" in world.log()


def _public(reply: Reply) -> Reply:
    """A reply without the site's name, its vector and its ledger head, a MAC that differs in every SITE_DIR."""
    assert len(reply.ledger_head) == 64
    return replace(reply, words=None, site="", ledger_head="")
