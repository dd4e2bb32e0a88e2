"""Devices that this machine lacks, memory that ends, and what a batch's shape may depend on (PRIVACY 3, 14, 17)."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.dummy import DummyBase, DummyMethod
from tests.support.world import World, oracle_row
from undertone.errors import MechanismViolation, ModelError
from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models import devices
from undertone.models.base import load_base
from undertone.models.devices import check_dtype, choose, out_of_memory, precision
from undertone.models.pinned import pin
from undertone_client.compute import preparing, workers
from undertone_client.compute.memory import allocated_by, installed
from undertone_client.compute.row_worker import RowWorker
from undertone_client.compute.workers import side_by_side, turns

Make = Callable[..., World]
CARDS = ("cuda:0", "cuda:1", "cpu")


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two graphics cards, as far as Undertone can see."""
    monkeypatch.setattr(devices, "present", lambda: CARDS)
    monkeypatch.setattr(workers, "free_memory", lambda _device: None)


# --- which devices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        ("auto", CARDS, ("cuda:0",)),
        ("auto", ("mps", "cpu"), ("mps",)),
        ("auto", ("cpu",), ("cpu",)),
        ("cpu", CARDS, ("cpu",)),
        ("cuda", CARDS, ("cuda:0",)),
        ("cuda:1", CARDS, ("cuda:1",)),
        (["cuda:1", "cuda:0"], CARDS, ("cuda:1", "cuda:0")),
    ],
)
def test_a_setting_names_devices(monkeypatch: pytest.MonkeyPatch, wanted: Any, there: Any, found: Any) -> None:
    monkeypatch.setattr(devices, "present", lambda: there)
    assert choose(wanted) == found


@pytest.mark.parametrize("wanted", ["cuda:2", "gpu", "mps", [], ["cuda:0", "cuda:0"], ["cuda", "cuda:0"], ["auto"]])
def test_a_device_that_is_not_there_is_an_error_not_a_cpu(two_cards: None, wanted: Any) -> None:
    with pytest.raises(ModelError, match=r"cuda:0, cuda:1, cpu|at least one device"):
        choose(wanted)


def test_this_machine_has_a_cpu_and_names_what_else_it_has() -> None:
    there = devices.present()
    assert there[-1] == "cpu"
    assert (there[0] == "cpu") == (not torch.cuda.is_available() and not torch.backends.mps.is_available())


def test_an_old_card_refuses_bfloat16_and_says_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _emulated: False)
    with pytest.raises(ModelError, match='"float16" or "float32"'):
        check_dtype("cuda:0", "bfloat16")
    check_dtype("cuda:0", "float16")
    check_dtype("cpu", "bfloat16")


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("expected memory format channels_last"), False),
        (ValueError("no"), False),
    ],
)
def test_what_counts_as_no_memory(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) is is_memory


# --- how many at a time ---------------------------------------------------------------------------


class Card:
    """A method's `rows` on a card that holds batches of `room` units; remembers what it was asked for."""

    def __init__(self, room: float, too_large: Sequence[int] = ()) -> None:
        self.room = room
        self.too_large = too_large
        self.shapes: list[int] = []
        self.saw_private: list[bool] = []

    def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
        del base
        self.shapes.append(len(batch))
        self.saw_private.append(any(unit.captions[0].isdigit() for unit in batch))
        draws = [unit.generator.random() for unit in batch]
        if len(batch) > self.room or any(unit.captions[0] in map(str, self.too_large) for unit in batch):
            raise torch.OutOfMemoryError("CUDA out of memory")
        progress(len(batch))
        # Like a kernel whose order of summation follows the shape: each row tells how long the batch was.
        numbers = [float(unit.captions[0] or -1) for unit in batch]
        return np.array([[n, d, len(batch)] for n, d in zip(numbers, draws, strict=True)], dtype=np.float32)


def worker_on(card: Card, device: str = "cuda:0", batch_size: int = 1) -> tuple[RowWorker, list[str]]:
    notes: list[str] = []
    base: Any = DummyBase()
    return RowWorker(device, "float32", base, notes.append, batch_size, make=card), notes


def unit(number: int) -> UnitRecords:
    generator = np.random.Generator(np.random.Philox(key=number))
    return UnitRecords(np.ones((1, 3, 2, 2), np.float32), (str(number),), generator)


def test_a_unit_that_does_not_fit_is_answered_with_a_study_that_does(two_cards: None) -> None:
    worker, _ = worker_on(Card(0))
    worker.lighter = [("method.draws = 2", worker_on(Card(0))[0]), ("method.draws = 1", worker_on(Card(1))[0])]
    with pytest.raises(ModelError, match=r"cuda:0; choose another, or plan with method\.draws = 1, which fits"):
        worker.settle("study", "auto", 1000)
    worker.lighter = [("method.draws = 1", worker_on(Card(0))[0])]
    with pytest.raises(ModelError, match="less of one unit"):
        worker.settle("study", "auto", 1000)


@pytest.mark.parametrize(("room", "batch_size"), [(1, 1), (3, 2), (20, 16), (1000, 128)])
def test_auto_finds_what_fits_without_seeing_a_record(two_cards: None, room: int, batch_size: int) -> None:
    card = Card(room)
    worker, notes = worker_on(card)
    worker.settle("study", "auto", 1000)
    assert worker.batch_size == batch_size
    assert not any(card.saw_private)
    assert len(notes) == 1


@pytest.mark.parametrize(("expected", "batch_size"), [(0, 1), (1, 1), (5, 8), (8, 8), (1000, 32)])
def test_auto_makes_no_longer_batches_than_public_figures_fill(expected: int, batch_size: int) -> None:
    worker, _ = worker_on(Card(1000), "cpu")
    worker.settle("study", "auto", expected)
    assert worker.batch_size == batch_size


def test_auto_on_a_processor_takes_half_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = worker_on(Card(1000), "cpu")
    monkeypatch.setattr(workers, "allocated_by", lambda work: (work(), 100)[1])
    monkeypatch.setattr(workers, "installed", lambda: 2000)
    worker.settle("study", "auto", 1000)
    assert worker.batch_size == 8  # 16 units would take 1600


def test_what_was_read_before_changes_no_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large record in the process, whether kept or given back, is nothing that a batch may depend on."""

    class Allocating(Card):
        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            torch.zeros(len(batch), 1 << 20).add_(1.0).mul(2.0)
            return super().__call__(base, batch, progress)

    def settled() -> int:
        worker, _ = worker_on(Allocating(1000), "cpu")
        worker.settle("study", "auto", 1000)
        return worker.batch_size

    monkeypatch.setattr(workers, "installed", lambda: 200 << 20)
    before = settled()
    assert 1 < before < 32
    there = installed()
    large = np.ones(1 << 27)  # a gigabyte: more than is "installed"
    assert settled() == before
    assert installed() == there
    del large
    assert settled() == before


def test_bytes_of_a_step_are_counted_from_shapes() -> None:
    parameter = torch.zeros(1000, requires_grad=True)

    def step() -> None:
        (parameter * 2).sum().backward()

    first = allocated_by(step)
    assert 3 * 4000 <= first <= 8 * 4000
    assert allocated_by(step) <= first + 4000


def test_what_was_settled_holds_for_the_study_and_the_process(two_cards: None) -> None:
    card = Card(4)
    worker, _ = worker_on(card)
    worker.settle("study", "auto", 1000)
    asked = len(card.shapes)
    again = RowWorker(worker.device, worker.dtype, worker.base, lambda _text: None, make=card)
    again.settle("study", "auto", 1000)
    assert (again.batch_size, len(card.shapes)) == (4, asked)
    again.settle("another study", "auto", 1000)
    assert len(card.shapes) > asked


def test_one_slot_that_does_not_fit_is_an_error_with_advice(two_cards: None) -> None:
    worker, _ = worker_on(Card(0))
    with pytest.raises(ModelError, match="cuda:0; choose another"):
        worker.settle("study", "auto", 10)


def test_memory_that_is_short_for_everybody_is_the_devices_fault_and_changes_no_shape(two_cards: None) -> None:
    """How many units stand in a batch is a fixed number: never what is left while records are read."""
    card = Card(5)
    worker, _ = worker_on(card, batch_size=16)
    with pytest.raises(ModelError, match="16 units at a time; say a smaller micro_batch"):
        worker.rows([unit(number) for number in range(7)])
    assert set(card.shapes) == {16}


def test_a_unit_too_large_moves_no_other_row(two_cards: None) -> None:
    """Its neighbours' rows are computed in the shape they would have had without it, from unused randomness."""
    with_it, _ = worker_on(Card(8, too_large=[3]), batch_size=8)
    without, _ = worker_on(Card(8), batch_size=8)
    rows = with_it.rows([unit(number) for number in range(20)])
    others = [number for number in range(20) if number != 3]
    expected = dict(zip(others, without.rows([unit(number) for number in others]), strict=True))
    assert rows[3] is None
    assert with_it.batch_size == 8
    for number in others:
        np.testing.assert_array_equal(rows[number], expected[number])


def test_an_error_of_the_device_is_raised(two_cards: None) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    worker, _ = worker_on(broken)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        worker.rows([unit(1)])


@pytest.mark.parametrize(
    "error", [RuntimeError("The size of tensor a must match"), MemoryError(), IndexError(), ZeroDivisionError()]
)
def test_whatever_one_unit_causes_is_its_own_row_alone(two_cards: None, error: Exception) -> None:
    class Failing(Card):
        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            rows = super().__call__(base, batch, progress)
            if any(unit.captions[0] == "3" for unit in batch):
                raise error
            return rows

    with_it, notes = worker_on(Failing(8), batch_size=8)
    without, _ = worker_on(Card(8), batch_size=8)
    rows = with_it.rows([unit(number) for number in range(5)])
    expected = without.rows([unit(number) for number in (0, 1, 2, 4)])
    assert rows[3] is None
    assert type(error).__name__ in notes[0]
    for found, row in zip([row for row in rows if row is not None], expected, strict=True):
        np.testing.assert_array_equal(found, row)


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_device_on_which_neighbours_or_places_show_gets_one_unit_at_a_time(two_cards: None, device: str) -> None:
    """By hand more than one is refused, before a record is seen."""

    class Mixing(Card):
        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            rows = super().__call__(base, batch, progress)
            rows[:, 1] += np.float32(1e-3) * rows[:, 1].mean()
            return rows

    class Slanting(Card):
        """A unit that comes or goes pushes the others to other places, where this card answers otherwise."""

        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            rows = super().__call__(base, batch, progress)
            rows[:, 1] *= 1 + np.float32(1e-3) * np.arange(len(rows))
            return rows

    class LastPlace(Card):
        """As a kernel whose remainder is summed otherwise."""

        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            rows = super().__call__(base, batch, progress)
            rows[-1:, 1] *= 1 + np.float32(1e-3) * (len(rows) > 1)
            return rows

    class Silent(Card):
        """Whatever a device does, rows that are all zero do not show it."""

        def __call__(self, base: Any, batch: Sequence[UnitRecords], progress: Any) -> NDArray[np.float32]:
            return 0 * super().__call__(base, batch, progress)

    for card in (Mixing(8), Slanting(8), LastPlace(8), Silent(8)):
        worker, notes = worker_on(card, device)
        with pytest.raises(MechanismViolation, match="changes with its place or its neighbours"):
            worker.settle("study", 4, 1000)
        worker.settle("study", "auto", 8)
        assert worker.batch_size == 1
        assert any("rows would change with a unit's place" in note for note in notes)
        assert not any(card.saw_private)
        worker.settle("another study", 1, 8)
    worker, _ = worker_on(Card(8), device)
    worker.settle("study", 4, 1000)
    worker.settle("study", "auto", 8)
    assert worker.batch_size == 8


# --- several cards --------------------------------------------------------------------------------


def test_cards_share_the_units_by_their_names_alone(two_cards: None) -> None:
    def shared(names: list[str]) -> dict[str, int]:
        where: dict[str, int] = {}
        pair = [worker_on(Card(4), device, 4)[0] for device in CARDS[:2]]
        for number, worker in enumerate(pair):
            make = worker.make

            def recorded(base: Any, batch: Any, progress: Any, number: int = number, make: Any = make) -> Any:
                where.update({f"u{s.captions[0]}": number for s in batch if s.captions[0]})
                return make(base, batch, progress)

            worker.make = recorded
        for turn in turns(pair, names):
            list(side_by_side(pair, turn, lambda worker, block: worker.rows([unit(int(name[1:])) for name in block])))
        return where

    names = [f"u{number}" for number in range(60)]
    everyone = shared(names)
    assert set(everyone) == set(names)
    assert min(list(everyone.values()).count(number) for number in (0, 1)) > 15
    fewer = shared(names[7:])
    assert fewer == {name: everyone[name] for name in names[7:]}


def test_two_cards_give_the_rows_of_one(make_world: Make, monkeypatch: pytest.MonkeyPatch, two_cards: None) -> None:
    world = make_world({"north": 40, "east": 4})
    loaded: list[str] = []
    threads: set[int] = set()
    rows = DummyMethod.rows

    def load(_reference: str, _revision: Any, device: str, *_key: str) -> DummyBase:
        loaded.append(device)
        return DummyBase()

    def recorded(self: DummyMethod, *rest: Any) -> Any:
        threads.add(threading.get_ident())
        return rows(self, *rest)

    monkeypatch.setattr(preparing, "_loaded", load)
    monkeypatch.setattr(DummyMethod, "rows", recorded)
    config = world.sites["north"] / "node.toml"
    text = config.read_text(encoding="utf-8").replace('device = "auto"', 'device = ["cuda:0", "cuda:1"]')
    config.write_text(text.replace("micro_batch = 64", 'micro_batch = "auto"'), encoding="utf-8")
    assert world.ask("prepare").error == ""
    assert loaded == ["cuda:0", "cuda:1"]
    assert len(threads) >= 2
    assert len(world.rows()) == 20
    for patient, row in world.rows().items():
        np.testing.assert_array_equal(row, oracle_row(world, "north", patient))


@pytest.mark.parametrize(
    ("line", "words"),
    [('device = "cuda:7"', "cuda:7"), ('dtype = "float8"', "node.toml"), ("micro_batch = 0", "node.toml")],
)
def test_settings_that_cannot_be_are_said_at_the_node(make_world: Make, two_cards: None, line: str, words: str) -> None:
    world = make_world()
    path = world.sites["north"] / "node.toml"
    name = line.split(" ")[0]
    kept = [old for old in path.read_text(encoding="utf-8").splitlines() if not old.startswith(name + " ")]
    path.write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")
    if words == "node.toml":
        with pytest.raises(Exception, match=words):
            world.node()
    else:
        assert world.ask("prepare").error == "SiteFault"
        assert words in world.log()


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rows_are_float32_near_the_others_and_blind_to_neighbours(tiny_base: Path, dtype: Any) -> None:
    pinned = pin(str(tiny_base))
    base, method = load_base(pinned), DPAggTI(DPAggTIOptions(steps=3, learning_rate=0.05))
    state = method.initial_state(pinned)

    def rows(numbers: Sequence[int], precision: Any) -> list[Any]:
        units = []
        for number in numbers:
            rng = np.random.Generator(np.random.Philox(key=number))
            latents = rng.standard_normal((1, *base.latent_shape), dtype=np.float32)
            units.append(UnitRecords(latents, ("a <private>",), rng))
        worker = RowWorker(
            "cpu", precision, base, lambda _text: None, 8, make=lambda b, u, p: method.rows(b, state, u, p)
        )
        return worker.rows(units)

    full, half = rows(range(8), "float32"), rows(range(8), dtype)
    for exact, rough in zip(full, half, strict=True):
        assert rough.dtype == np.float32
        assert not np.array_equal(exact, rough)
        assert exact @ rough > 0.9 * np.linalg.norm(exact) * np.linalg.norm(rough)
    for others in ([3], [7, 6, 5, 4, 3, 2, 1, 0], [9, 3, 11]):
        found = dict(zip(others, rows(others, dtype), strict=True))
        for number in set(others) & set(range(8)):
            np.testing.assert_array_equal(found[number], half[number])


def test_full_precision_changes_nothing() -> None:
    with precision("cpu", "float32"):
        assert not torch.is_autocast_enabled("cpu")
    with precision("cpu", "bfloat16"):
        assert torch.is_autocast_enabled("cpu")


def test_no_setting_of_the_machine_is_in_the_plan(make_world: Make) -> None:
    world = make_world()
    text = world.plan.as_bytes().decode()
    for word in ("device", "dtype", "micro_batch", "float32", "cpu"):
        assert word not in text
