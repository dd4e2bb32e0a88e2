"""The latent cache: encoded once, resumed after a kill, and never believed where it was damaged."""

import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.dummy import DummyBase
from tests.support.failpoints import Killed
from tests.support.images import pixels, write_images
from undertone.data.images import load_image
from undertone.data.records import RecordTable, read_records
from undertone.errors import FolderError
from undertone.models.base import load_base
from undertone.models.pinned import PinnedBase, pin
from undertone_client.compute.disk_array import DiskArray
from undertone_client.compute.latents import Latents, cached_latents

COUNT = 50


class CountingBase(DummyBase):
    """Counts the images that are not blank, and dies in the batch it is told to; two batches of random ones before."""

    def __init__(self, die_at: int = 10**9) -> None:
        self.measuring, self.encoded = 2, list[int]()
        self.die_at = die_at

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.measuring:
            self.measuring -= 1
            return super().encode(images)
        if len(self.encoded) == self.die_at:
            raise Killed
        self.encoded.append(int(images.any(axis=(1, 2, 3)).sum()))
        return super().encode(images)


class Site:
    """A folder of images and its cache."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.data, self.cache, self.notes = folder / "data", folder / "cache", list[str]()
        self.names = write_images(self.data, COUNT)
        self.cache.mkdir()
        self.pinned: PinnedBase = pin(str(base))
        self.table: RecordTable = read_records(self.data, "record", None, "a {token}")

    def latents(
        self, base: Any = None, needed: Sequence[int] | None = None, absent: Sequence[int] = (), **changes: Any
    ) -> tuple[Latents, list[int]]:
        """The cache brought up to date, and how many images each batch encoded."""
        base = base or CountingBase()
        checked, present = np.zeros(COUNT, dtype=bool), np.ones(COUNT, dtype=bool)
        checked[range(COUNT) if needed is None else needed] = True
        present[list(absent)] = False
        steps: list[int] = []
        table = changes.get("table", self.table)
        found = cached_latents(self.cache, table, present, checked, self.pinned, base, self.notes.append, steps.append)
        assert sum(steps) == COUNT
        return found, getattr(base, "encoded", [])

    def oracle(self, index: int) -> NDArray[np.float32]:
        return DummyBase().encode(load_image(self.data / self.table.records[index].file, 8)[None])[0]

    def check(self, latents: Latents, without: Sequence[int] = ()) -> None:
        assert set(np.flatnonzero(~latents.readable)) == set(without)
        readable = [index for index in range(COUNT) if index not in without]
        np.testing.assert_array_equal(latents.of(readable), np.stack([self.oracle(index) for index in readable]))

    def file(self, ending: str) -> Path:
        (found,) = self.cache.glob(f"latents-????????????????-????????????????{ending}")
        return found


@pytest.fixture
def site(tmp_path: Path, dummy_base: Path) -> Site:
    return Site(tmp_path, dummy_base)


class SlantingBase(CountingBase):
    """A device whose encoder answers by an image's place in the batch."""

    def __init__(self, slant: float) -> None:
        super().__init__()
        self.slant = slant

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        places = np.arange(len(images), dtype=np.float32)[:, None, None, None]
        return super().encode(images) * (1 + np.float32(self.slant) * places)


@pytest.mark.parametrize("slant", [1e-6, 0.0])
def test_where_latents_depend_on_the_place_in_a_batch_images_are_encoded_one_by_one(site: Site, slant: float) -> None:
    base = SlantingBase(slant)
    latents, encoded = site.latents(base)
    site.check(latents)
    assert encoded == ([1] * COUNT if slant else [16, 16, 16, 2])
    assert any("one image at a time" in note for note in site.notes) is bool(slant)
    assert site.latents(base, needed=[])[1] == encoded


def test_latents_of_other_arithmetic_are_made_anew_in_their_place(site: Site) -> None:
    """Which images were encoded before the threads changed depends on how many records there are."""
    site.latents()
    other = CountingBase()
    other.arithmetic = "cpu, 7 threads"
    latents, encoded = site.latents(other)
    site.check(latents)
    assert sum(encoded) == COUNT
    assert len(list(site.cache.iterdir())) == 2


def test_every_image_is_encoded_once(site: Site) -> None:
    latents, encoded = site.latents()
    site.check(latents)
    assert sum(encoded) == COUNT
    again, encoded = site.latents()
    site.check(again)
    assert not encoded
    assert np.load(site.file(".npy"), mmap_mode="r").shape == (COUNT, 3, 2, 2)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_kill_costs_the_batch_at_work(site: Site, batch: int) -> None:
    with pytest.raises(Killed):
        site.latents(CountingBase(die_at=batch))
    latents, encoded = site.latents()
    site.check(latents)
    assert sum(encoded) == COUNT - 16 * batch


def test_a_changed_file_alone_is_encoded_anew(site: Site) -> None:
    site.latents()
    Image.fromarray(pixels(99, 8)).save(site.data / site.names[7])
    latents, encoded = site.latents(needed=[])
    site.check(latents)
    assert encoded == [1]


@pytest.mark.parametrize("ending", [".npy", ".seals.npy"])
@pytest.mark.parametrize("place", [0.3, 0.7, 0.999])
def test_damage_is_found_where_it_is(site: Site, ending: str, place: float) -> None:
    site.latents()
    data = bytearray(site.file(ending).read_bytes())
    data[int(place * len(data))] ^= 1
    site.file(ending).write_bytes(data)
    latents, encoded = site.latents()
    site.check(latents)
    assert encoded == [1]


def test_swapped_latents_are_found(site: Site) -> None:
    """Even where two files have one length and one time, so that their seals differ in nothing but the place."""
    for number in (3, 4):
        Image.fromarray(pixels(number, 8)).save(site.data / site.names[number], format="BMP")
        os.utime(site.data / site.names[number], ns=(10**18, 10**18))
    first, _ = site.latents()
    array, seals = first.array, DiskArray(site.file(".seals.npy"), (COUNT, 4), "<i8")
    array.write([3, 4], array.read([4, 3]))
    seals.write([3, 4], seals.read([4, 3]))
    latents, encoded = site.latents()
    site.check(latents)
    assert encoded == [2]


def test_only_what_is_needed_is_checked_against_its_digest(site: Site) -> None:
    first, _ = site.latents()
    first.array.write([5], np.ones((1, 3, 2, 2), dtype=np.float32))
    assert site.latents(needed=[4, 6])[1] == []
    assert site.latents(needed=[4, 5])[1] == [1]


@pytest.mark.parametrize("ending", [".npy", ".seals.npy"])
@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY\x01\x00v\x00{", None])
def test_a_cache_that_is_none_is_made_anew(site: Site, ending: str, data: bytes | None) -> None:
    site.latents()
    whole = site.file(ending).read_bytes()
    site.file(ending).write_bytes(whole[:-1] if data is None else data)
    latents, encoded = site.latents()
    site.check(latents)
    assert sum(encoded) == COUNT


def test_unreadable_and_unlisted_records_have_no_latents(site: Site) -> None:
    (site.data / site.names[3]).write_bytes(b"no image")
    (site.data / site.names[4]).unlink()
    latents, encoded = site.latents(absent=[5])
    assert set(np.flatnonzero(~latents.readable)) == {3, 4, 5}
    assert sum(encoded) == COUNT - 3
    assert len(site.notes) == 2
    assert all("zero row" in note for note in site.notes)
    Image.fromarray(pixels(3, 8)).save(site.data / site.names[3])  # repaired: taken up again
    latents, encoded = site.latents()
    assert set(np.flatnonzero(~latents.readable)) == {4}
    assert sum(encoded) == 2


def test_latents_that_are_not_numbers_count_as_unreadable(site: Site) -> None:
    class Overflowing(CountingBase):
        def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = super().encode(images)
            if self.encoded:
                found[2, 0, 0, 0] = np.inf
            return found

    latents, _ = site.latents(Overflowing())
    assert set(np.flatnonzero(~latents.readable)) == {2, 18, 34}  # the third of each full batch
    assert latents.readable[48:].all()


def test_another_table_has_a_cache_of_its_own(site: Site) -> None:
    site.latents()
    records = site.table.records
    renamed = type(records[0])("images/scan-0049b.png", "u", {})
    (site.data / site.names[49]).rename(site.data / renamed.file)
    latents, encoded = site.latents(table=RecordTable(site.data, (*records[:49], renamed)))
    assert sum(encoded) == COUNT
    assert latents.readable.all()


def test_a_full_disk_is_one_named_error_and_nothing_is_lost(site: Site) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(FolderError, match="make room"):
            site.latents()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    site.check(site.latents()[0])


def test_memory_is_that_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dummy_base: Path) -> None:
    """No list of all pixels or latents: the largest piece that is read or written is a batch."""
    site, sizes = Site(tmp_path, dummy_base), list[int]()
    write: Callable[..., None] = DiskArray.write

    def watched(self: DiskArray, indices: Any, values: Any) -> None:
        sizes.append(len(values))
        write(self, indices, values)

    monkeypatch.setattr(DiskArray, "write", watched)
    site.latents()
    assert max(sizes) <= 16


def test_latents_are_equal_to_the_bit_whoever_stands_beside_an_image(tmp_path: Path) -> None:
    """With genuine weights: a record encoded again among others, or alone, is what it was (PRIVACY 3)."""
    base = load_base(pin("embedded:tiny"))
    images = np.stack([pixels(number, base.image_size) for number in range(16)])
    everyone = base.encode(images)
    for order in ([3], [5, 3], list(reversed(range(16)))):
        batch = np.zeros_like(images)
        batch[: len(order)] = images[order]
        np.testing.assert_array_equal(base.encode(batch)[: len(order)], everyone[order])


@pytest.mark.parametrize("byte", [0, 10, 32, 34, 40, 48, 92, 123, 255])
def test_an_array_whose_header_is_damaged_is_made_anew(tmp_path: Path, byte: int) -> None:
    path = tmp_path / "array.npy"
    DiskArray(path, (3, 4), "<i8").write([1], np.full((1, 4), 7))
    good = path.read_bytes()
    for place in range(good.index(b"\n")):
        path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
        assert DiskArray(path, (3, 4), "<i8").read([0, 1, 2]).sum() in (0, 28)
