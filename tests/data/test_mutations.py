"""Study files, metadata and images, mutated: each ends in a result or in one named error, never in anything else."""

import contextlib
import os
import random
import signal
import string
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.images import pixels, write_folder
from tests.support.runs import call
from tests.support.studies import GOOD, study_with, write_study
from tests.support.tiffs import write_png16, write_tiff
from undertone.data.images import load_image
from undertone.data.metadata import LONGEST_LINE, rows_by_line
from undertone.data.records import Record, read_good_records, read_records, write_metadata
from undertone.errors import UndertoneError
from undertone.study.schema import load_study

FEW, MANY = 700, 34_000  # of each of three kinds of file: 2,100 in the fast suite, 102,000 in the slow one
SLOWEST = 20.0  # seconds for one mutation on a busy machine; a hang is longer
AMOUNTS = [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)])]

# What breaks parsers: bytes that are no text, signs of structure, numbers without end, look-alikes.
NASTY = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b'""',
    b'"""',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 2000,
    b'{"a":' * 500,
    b"=",
    b"1" * 5000,
    b"1e999",
    b"-1e-999",
    b"NaN",
    b"-Infinity",
    b"null",
    b"true",
    b"\\ud800",
    b"\\u0000",
    b"\xe2\x80\xae",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"\xf0\x9f\xa6\xb4",
    b"\xe2\x80\xa8",
    b"\x1b[31m",
    b"../",
    b"/",
    b"\\",
    b"{token}",
    b"{0.__class__}",
    b"{" * 50,
    b"a" * 300,
    b"file_name",
    b"patient_id",
    b"#",
    b"'''",
    b"inf",
    b"9" * 400,
    b"0x",
    b"1_0",
    b"1979-05-27T07:32:00Z",
]


class Hang(BaseException):
    """One mutation took longer than `SLOWEST`."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise `Hang` within, after `SLOWEST` seconds."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutate(data: bytes, dice: random.Random) -> bytes:
    """One to four changes: bytes flipped, cut out, doubled, moved, or something nasty put in."""
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        at, to = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        to = min(to, at + dice.choice([1, 4, 40, len(data)]))
        match dice.randrange(7):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:at] + data[at:to] * dice.choice([2, 3, 50]) + data[to:]
            case 3:
                data = data[:at]
            case 4:
                data = data[:at] + dice.randbytes(dice.choice([1, 4, 16])) + data[to:]
            case 5:
                lines = data.splitlines(keepends=True)
                dice.shuffle(lines)
                data = b"".join(lines)
            case _:
                data = data[:at] + dice.choice(NASTY) * dice.choice([1, 1, 1, 3]) + data[dice.choice([at, to]) :]
    return data[: 1 << 22]


def fuzz(kind: str, amount: int, seeds: list[bytes], attempt: Callable[[bytes, random.Random], bool]) -> None:
    """`attempt` a number of mutations; it says whether there was a result. Both must happen, or nothing was tested."""
    results = 0
    for number in range(amount):
        dice = random.Random(f"{kind} {number}")  # each mutation can be made again by its number
        data = mutate(dice.choice(seeds), dice)
        try:
            with in_time():
                results += attempt(data, dice)
            message = "a result"
        except UndertoneError as error:
            message = str(error)
        except BaseException as error:
            raise AssertionError(f"{kind} {number} ended in {type(error).__name__}") from error
        assert message.isprintable(), (kind, number, message)
        assert len(message) < 2000, (kind, number, message)
    assert 0.02 * amount < results < 0.98 * amount


# --- study files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", AMOUNTS)
def test_study_files(tmp_path: Path, amount: int) -> None:
    path = tmp_path / "study.toml"
    good = [write_study(path, GOOD).read_bytes()]
    good += [write_study(path, study_with({"privacy.unit": "record", "data.unit_column": None})).read_bytes()]

    def attempt(data: bytes, _dice: random.Random) -> bool:
        path.write_bytes(data)
        load_study(path)
        return True

    fuzz("study", amount, good, attempt)


# --- metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", AMOUNTS)
def test_metadata_files(tmp_path: Path, amount: int) -> None:
    rows = write_folder(tmp_path, 8)
    jsonl = "\n".join(f'{{"file_name": "{row["file_name"]}", "patient_id": 7, "finding": null}}' for row in rows)
    good = {"csv": (tmp_path / "metadata.csv").read_bytes(), "jsonl": jsonl.encode()}
    (tmp_path / "metadata.csv").unlink()

    def attempt(data: bytes, dice: random.Random) -> bool:
        ending = "jsonl" if data.lstrip()[:1] in (b"{", b"[") else "csv"
        source, copy = tmp_path / f"meta.{ending}", tmp_path / "copy.csv"
        source.write_bytes(data)
        assert all(isinstance(row, dict) for row in rows_by_line(source, [1, dice.randrange(1, 5)]))
        good = read_good_records(tmp_path, "patient", "patient_id", "a {token}, {finding}", source, lambda _: None)
        assert all(is_good(record.file) and record.unit for record in good.records)
        table = read_records(tmp_path, "patient", "patient_id", "a {token}, {finding}", source)
        write_metadata(copy, table.records)
        again = read_records(tmp_path, "patient", "patient_id", "a {token}, {finding}", copy)
        assert list(map(written, again.records)) == list(map(written, table.records))
        return True

    def written(record: Record) -> tuple[str, str, dict[str, str]]:
        return record.file, record.unit, {name: text for name, text in record.columns.items() if text}

    def is_good(file: str) -> bool:
        return (tmp_path / file).is_file() and ".." not in file

    fuzz("metadata", amount, list(good.values()), attempt)


# --- images ---------------------------------------------------------------------------------------


def sample_images() -> list[bytes]:
    """One small file of each kind."""
    rgb = Image.fromarray(pixels(1, 16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 16)
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "PNG", {"exif": exif}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.quantize(8), "PNG", {"transparency": 0}),
        (deep, "PNG", {}),
        (rgb.convert("1"), "PNG", {}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "tiff_deflate"}),
        (deep, "TIFF", {}),
        (Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), "TIFF", {}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb, "BMP", {}),
        (rgb.quantize(8), "GIF", {"save_all": True, "append_images": [rgb.quantize(4)]}),
        (rgb, "WEBP", {}),
        (rgb, "WEBP", {"lossless": True, "exif": exif}),
    ]
    made = []
    for image, name, options in kinds:
        stream = BytesIO()
        image.save(stream, name, **options)
        made.append(stream.getvalue())
    return made


def deep_images(folder: Path) -> list[bytes]:
    """Small files of more than 8 bits a channel, each of which is read in a way of its own."""
    rgb = pixels(1, 16).astype(np.uint16) * 16
    both, four = rgb[..., :2].copy(), np.concatenate([rgb, np.full_like(rgb[..., :1], 65535)], axis=-1)
    grey = rgb[..., 0]
    made = [write_png16(folder / "made", image).read_bytes() for image in (both, rgb, four)]
    made.append(write_png16(folder / "made", rgb, transparent=(16, 32, 48)).read_bytes())
    tiffs: list[tuple[NDArray[Any], dict[str, Any]]] = [
        (grey, {"photometric": 0, "order": ">"}),
        (grey.astype(np.float64), {"photometric": 0}),
        (grey.astype(np.int32) - 2048, {"photometric": 0, "layout": "deflate", "order": ">"}),
        (rgb, {"photometric": 2, "layout": "deflate"}),
        (rgb, {"photometric": 2, "planar": True}),
        (four, {"photometric": 2, "extra": (1,), "layout": "tiles"}),
        (rgb[..., 0] >> 8, {"photometric": 1, "bits": 12}),
    ]
    made += [write_tiff(folder / "made", image, **options).read_bytes() for image, options in tiffs]
    return made


@pytest.mark.parametrize("amount", AMOUNTS)
def test_image_files(tmp_path: Path, amount: int) -> None:
    path = tmp_path / "image.png"

    def attempt(data: bytes, _dice: random.Random) -> bool:
        path.write_bytes(data)
        found = load_image(path, 8)
        assert found.shape == (8, 8, 3)
        assert found.dtype == np.uint8
        return True

    fuzz("image", amount, [*sample_images(), *deep_images(tmp_path)], attempt)


# --- whole commands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount", [12, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)])]
)
def test_simulate_leaves_no_partial_run(tmp_path: Path, dummy_base: Path, dummy_method: None, amount: int) -> None:
    """Bad input ends before RUN is written. Good input is stopped where the coordinator would start."""
    del dummy_method
    write_folder(tmp_path / "data", 12, sites=("north", "east", "south"))
    good_study = write_study(tmp_path / "study.toml", study_with(base=str(dummy_base))).read_bytes()
    files = {
        tmp_path / "study.toml": good_study,
        tmp_path / "data" / "metadata.csv": (tmp_path / "data" / "metadata.csv").read_bytes(),
        tmp_path / "data" / "images" / "scan-0003.png": (tmp_path / "data" / "images" / "scan-0003.png").read_bytes(),
    }
    for number in range(amount):
        dice = random.Random(f"simulate {number}")
        path = dice.choice(list(files))
        path.write_bytes(mutate(files[path], dice))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("undertone_cli.commands.simulate.run_on", lambda *_: None)
            result = call(
                "simulate",
                tmp_path / "study.toml",
                "--data",
                tmp_path / "data",
                "--split-by",
                "site",
                "--out",
                tmp_path / "RUN",
            )
        assert result.exception is None or isinstance(result.exception, SystemExit), (number, result.exception)
        assert result.exit_code in (0, 2, 3), (number, result.output)
        assert not (tmp_path / "RUN.part").exists()
        whole = (tmp_path / "RUN" / "sites" / "north" / "node.toml").exists()
        assert (tmp_path / "RUN").exists() == whole == (result.exit_code == 0), (number, result.output)
        for folder in (tmp_path / "RUN",) if whole else ():
            os.rename(folder, tmp_path / f"done-{number}")
        path.write_bytes(files[path])


# --- by hand --------------------------------------------------------------------------------------


def one_error(folder: Path, data: bytes, name: str = "metadata.csv") -> str:
    write_folder(folder, 4)
    (folder / "metadata.csv").unlink()
    (folder / name).write_bytes(data)
    with in_time(), pytest.raises(UndertoneError) as caught:
        read_records(folder, "patient", "patient_id", "a {token}")
    return str(caught.value)


ROW = b'{"file_name": "images/scan-0000.png", "patient_id": '


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("metadata.jsonl", b"[" * 1_000_000, "line 1"),
        ("metadata.jsonl", b'{"a":' * 100_000, "nested too deeply"),
        ("metadata.jsonl", ROW + b"9" * 5000 + b"}", "not valid JSON"),
        ("metadata.jsonl", ROW + b"1e999}", "must be text or a whole number"),
        ("metadata.jsonl", ROW + b"NaN}", "NaN is no value"),
        ("metadata.jsonl", ROW + b"7.0}", "must be text or a whole number"),
        ("metadata.jsonl", ROW + b"true}", "must be text or a whole number"),
        ("metadata.jsonl", ROW + b'["p"]}', "must be text or a whole number"),
        ("metadata.jsonl", ROW + b'"a", "patient_id": "b"}', "stands twice in one object"),
        ("metadata.jsonl", ROW + b'"\\ud800"}', "not UTF-8"),
        ("metadata.jsonl", ROW + b'"\xff"}', "not UTF-8"),
        ("metadata.jsonl", b"x" * (LONGEST_LINE + 2), "line 1: longer than"),
        ("metadata.csv", b"x" * (LONGEST_LINE + 2), "line 1: longer than"),
        ("metadata.csv", b"file_name,patient_id\n" + b"y" * 200_000 + b",p\n", "line 2: not valid CSV"),
        ("metadata.csv", b'file_name,patient_id\n"' + b"\n" * 200_000, "line 2: not valid CSV"),
        ("metadata.csv", b"file_name,patient_id\nimages/scan\x00-0000.png,p\n", "line 2: holds a NUL character"),
        ("metadata.csv", b"file_name,patient_id\n" + b"x" * 5000 + b".png,p\n", "there is no file"),
        ("metadata.csv", b'file_name,patient_id\n"images/a\nb.png",p\n', "images/a\\nb.png"),
        ("metadata.csv", b"file_name,patient_id\n\x1b[2Jx.png,p\n", "\\x1b[2Jx.png"),
        ("metadata.csv", b'file_name,patient_id\nimages/scan-0000.png,"' + b"p\n" * 20 + b'"\n', "spans more than"),
        ("metadata.csv", b"file_name,patient_id\nimages/scan-0000.png,\xff\n", "line 2: not UTF-8"),
        ("metadata.csv", b"file_name,patient_\xff\n", "not UTF-8"),
    ],
)
def test_known_traps_in_metadata(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    message = one_error(tmp_path, data, name)
    assert says in message
    assert message.isprintable()


def test_two_ways_to_write_an_accent_are_one_patient_and_a_named_file(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    text = 'file_name,patient_id\nimages/scan-0000.png,"Jos\u00e9"\nimages/scan-0001.png,"Jose\u0301 "\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    assert read_records(tmp_path, "patient", "patient_id", "a {token}").units() == {"Jos\u00e9": [0, 1]}
    os.rename(tmp_path / "images" / "scan-0000.png", tmp_path / "images" / "sca\u0301n.png")
    (tmp_path / "metadata.csv").write_text("file_name,patient_id\nimages/sc\u00e1n.png,p\n", encoding="utf-8")
    with pytest.raises(UndertoneError, match="other Unicode characters"):
        read_records(tmp_path, "patient", "patient_id", "a {token}")


def test_loops_of_links_end(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    (tmp_path / "data" / "metadata.csv").unlink()
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self.png").symlink_to(tmp_path / "data" / "self.png")
    with in_time(), pytest.raises(UndertoneError, match=r"self\.png"):
        read_records(tmp_path / "data", "record", None, "a {token}")
    (tmp_path / "data" / "self.png").unlink()
    assert len(read_records(tmp_path / "data", "record", None, "a {token}").records) == 2
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data" / name)
    assert len(read_records(tmp_path / "data", "record", None, "a {token}").records) == 2


def test_a_pipe_in_place_of_metadata_is_not_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    os.mkfifo(tmp_path / "pipe")
    with in_time(), pytest.raises(UndertoneError, match="is not a file"):
        read_records(tmp_path, "patient", "patient_id", "a {token}", tmp_path / "pipe")


def test_a_text_chunk_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    """A PNG whose compressed text is a bomb, and one whose pixels are fewer than it says."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 26)))
    body = chunk(b"IDAT", zlib.compress(bytes(16 * 49)))
    for data in (
        head + bomb + body + chunk(b"IEND", b""),
        head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
    ):
        (tmp_path / "image.png").write_bytes(data)
        began = time.monotonic()
        with in_time(), pytest.raises(UndertoneError, match="cannot be read as an image"):
            load_image(tmp_path / "image.png", 8)
        assert time.monotonic() - began < SLOWEST


def test_the_mutations_reach_every_byte() -> None:
    """The fuzzer itself: it changes text, it is repeatable, and it finds a parser that trusts its input."""
    assert len({mutate(string.ascii_letters.encode(), random.Random(number)) for number in range(200)}) > 150
    assert mutate(b"same", random.Random(1)) == mutate(b"same", random.Random(1))

    def trusting(data: bytes, _dice: random.Random) -> bool:
        return bool(data.decode())

    with pytest.raises(AssertionError, match="UnicodeDecodeError"):
        fuzz("trusting", 500, [b"some text"], trusting)
