"""What every registered method must keep to: one unit, one row, and only the layout is released."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.gradient_studies import TOLD_CLASSES
from undertone.core.captions import fill_caption
from undertone.errors import MechanismViolation, StudyError, UnfitWeights
from undertone.gradients.engine import UnitBatch
from undertone.methods.classed import with_classes
from undertone.methods.classes import ClassShown
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.protocol import Method, UnitRecords, settled, stages_of
from undertone.methods.registry import METHODS, method_for
from undertone.methods.warm_start import state_at
from undertone.methods.weights import attach, released_layout
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.models.tokens import RowTokens

# Each method in the shapes that its options give it; a new method adds a line.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dpagg-ti": [
        {"steps": 4},
        {"steps": 3, "vectors": 2, "rescale": 1.5},
        {"steps": 3, "vectors": 2, "per_class": True, "share_scale": 0.5},
    ],
    "dpsgd-ti": [
        {"draws": 2},
        {"vectors": 2, "records": 2, "optimiser": "sgd", "caption_dropout": 0.5},
        {"directions": 6, "direction_drawings": 12},
        {"draws": 2, "records": 2, "per_class": True},
    ],
    "dp-lora": [
        {"rank": 2, "alpha": 4, "draws": 2, "records": 2},
        {"targets": ["attention", "conv"], "freeze_a": False, "ema": 0.5, "warm_up": 3},
        {"targets": ["conv"], "text": False},
        {"rank": 2, "alpha": 4, "records": 2, "directions": 5, "direction_drawings": 12},
    ],
    "dp-ldm": [
        {"draws": 2, "records": 3},
        {"blocks": ["mid_block"], "embedder": False, "optimiser": "adamw", "weight_decay": 0.01},
        {"directions": 4, "direction_drawings": 12, "optimiser": "dog"},
    ],
    "dp-prototypes": [
        {"public_drawings": 12, "components": 4, "centres": 2},
        {"public_drawings": 12, "components": 3, "centres": 3, "per_class": True, "records": 2, "radius": 1.0},
    ],
    "dpdm": [
        {"draws": 2, "records": 3},
        {
            "initial_weights": "scratch",
            "parametrisation": "edm",
            "ema": 0.5,
            "sampler": "stochastic",
            "caption_dropout": 0.5,
        },
        {"largest_row_mib": 64, "directions": 4, "direction_drawings": 12},
    ],
    "dp-sad": [
        {"outputs": 2, "query_steps": 3},
        {"teacher": "trained", "teacher_steps": 3, "adversarial": 0.0, "ema": 0.5, "initial_weights": "scratch"},
    ],
}
# Every variant on a base that predicts v (DDIM), the first of each method on one that predicts noise (PNDM) too.
CASES = [
    (name, options, kind)
    for name in METHODS
    for number, options in enumerate(VARIANTS[name])
    for kind in (("class_base",) if name in TOLD_CLASSES else ("tiny_base", "epsilon_base"))
    if kind != "epsilon_base" or number == 0
]
# Those with a row for each unit: dp-sad's are of shards (tests/methods/test_sad.py).
OF_UNITS = [case for case in CASES if case[0] != "dp-sad"]
# Those of them that change what the base predicts; prototypes leave it alone.
TRAINED = [case for case in OF_UNITS if case[0] != "dp-prototypes"]


def _named(case: tuple[str, dict[str, Any], str]) -> str:
    return f"{case[0]}-{'-'.join(case[1])}-{case[2]}"


of_units = pytest.mark.parametrize("case", OF_UNITS, ids=_named, indirect=True)


@pytest.fixture(params=CASES, ids=_named)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], str]:
    name, options, kind = request.param
    return name, options, str(request.getfixturevalue(kind))


@pytest.fixture
def pinned(case: tuple[str, dict[str, Any], str]) -> PinnedBase:
    return pin(case[2])


@pytest.fixture
def method(case: tuple[str, dict[str, Any], str], pinned: PinnedBase) -> Method:
    """As it stands in a plan."""
    chosen = with_classes(method_for(case[0], case[1]), CLASSES)
    return settled(chosen, pinned, caption_of(chosen))[0]


@pytest.fixture
def base(case: tuple[str, dict[str, Any], str]) -> LoadedBase:
    """One for each method and folder, as a node has it: rows must leave it as it was."""
    return shared_base(case[0], case[2])


@lru_cache(maxsize=16)
def shared_base(_method: str, folder: str) -> LoadedBase:
    return load_base(pin(folder))


CLASSES = ("mass", "clear")
CAPTIONS = {True: "a {token}, {finding}", False: "a picture, {finding}"}


def caption_of(method: Method) -> str:
    return "{finding}" if method.name in TOLD_CLASSES else CAPTIONS[bool(method.token)]


def start_of(method: Method, pinned: PinnedBase) -> NDArray[np.float32]:
    """The first w, and not what a server optimiser keeps behind it; LoRA's B is moved off zero."""
    w = method.initial_state(pinned)[: method.dimension(pinned)]
    nudge = np.random.Generator(np.random.Philox(key=6)).standard_normal(w.size).astype(np.float32)
    return w + np.float32(0.01) * nudge


def make_units(method: Method, count: int, first: int = 0) -> list[UnitRecords]:
    """Units with 1 to 3 images each; unit `number` is the same in every list and call."""
    units = []
    for number in range(first, first + count):
        drawn = np.random.Generator(np.random.Philox(key=1000 + number))
        images = 1 + number % 3
        latents = drawn.standard_normal((images, 4, 8, 8), dtype=np.float32)
        findings = [("clear", "mass")[index % 2] for index in range(images)]
        captions = tuple(fill_caption(caption_of(method), method.token, {"finding": word}) for word in findings)
        classes = np.array([CLASSES.index(word) for word in findings])
        units.append(UnitRecords(latents, captions, np.random.Generator(np.random.Philox(key=number)), classes=classes))
    return units


def row_length(method: Method, pinned: PinnedBase) -> int:
    """Of a row in the last stage: as long as w, or with shares of classes before it."""
    return stages_of(method, pinned)[-1].row


def whole_w(method: Method, pinned: PinnedBase, w: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `w` stands for: itself, or w_0 + P c."""
    if method.name == "dp-prototypes":  # in components, where the release is in latents
        (tensors,) = method.weights(pinned, w).values()
        return method.layout(pinned).flatten(dict(tensors))
    if not getattr(method.options, "directions", 0):
        return w
    assert isinstance(method, GradientMethod)
    return (method._start(pinned) + method._directions(pinned).found().basis.T @ w).astype(np.float32)


def rows_of(method: Method, base: LoadedBase, pinned: PinnedBase, units: Sequence[UnitRecords]) -> NDArray[np.float32]:
    return method.rows(base, start_of(method, pinned), units, lambda _steps: None)


@of_units
def test_rows_have_the_dimension_and_move(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    rows = rows_of(method, base, pinned, make_units(method, 3))
    assert rows.shape == (3, row_length(method, pinned))
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert (np.abs(rows).max(axis=1) > 1e-4).all()
    assert len({row.tobytes() for row in rows}) == 3


@of_units
def test_a_changed_unit_moves_its_own_row_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    before = rows_of(method, base, pinned, make_units(method, 5))
    for changed in (0, 3):
        units = make_units(method, 5)
        units[changed] = make_units(method, 1, first=77)[0]
        after = rows_of(method, base, pinned, units)
        others = [index for index in range(5) if index != changed]
        np.testing.assert_array_equal(after[others], before[others])
        assert not np.array_equal(after[changed], before[changed])


@of_units
def test_a_unit_of_extreme_values_moves_its_own_row_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    before = rows_of(method, base, pinned, make_units(method, 4))
    for value in (np.nan, np.inf, 1e30, 0.0):
        units = make_units(method, 4)
        units[1].latents.fill(value)
        after = rows_of(method, base, pinned, units)
        np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])


@of_units
def test_permuted_units_give_permuted_rows(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    order = [3, 0, 4, 1, 2]
    rows = rows_of(method, base, pinned, make_units(method, 5))
    units = make_units(method, 5)
    permuted = rows_of(method, base, pinned, [units[index] for index in order])
    np.testing.assert_allclose(permuted, rows[order], atol=1e-5)


@of_units
def test_no_unit_gives_no_row(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    assert rows_of(method, base, pinned, []).shape == (0, row_length(method, pinned))


@of_units
def test_sixteen_at_once_equal_sixteen_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    together = rows_of(method, base, pinned, make_units(method, 16))
    alone = [rows_of(method, base, pinned, make_units(method, 1, first=number))[0] for number in range(16)]
    largest = np.abs(together).max()
    np.testing.assert_allclose(together, np.array(alone), atol=1e-4 * min(largest, 1))
    assert largest > 1e-3


@of_units
def test_rows_repeat_and_use_no_other_randomness(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    torch.manual_seed(1)
    first = rows_of(method, base, pinned, make_units(method, 2))
    torch.manual_seed(2)
    np.testing.assert_array_equal(rows_of(method, base, pinned, make_units(method, 2)), first)


@of_units
def test_computing_rows_leaves_the_base_as_it_was(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    method.rows(base, start_of(method, pinned), make_units(method, 1), lambda _steps: None)
    before = [parameter.clone() for part in parts_of(base) for parameter in part.parameters()]
    rows_of(method, base, pinned, make_units(method, 2))
    after = [parameter for part in parts_of(base) for parameter in part.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in after)


@of_units
def test_progress_counts_every_step_of_every_unit(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    seen: list[int] = []
    method.rows(base, start_of(method, pinned), make_units(method, 3), seen.append)
    assert sum(seen) == 3 * getattr(method.options, "steps", 1)


def test_the_layout_is_the_same_every_time_and_is_that_of_w(method: Method, pinned: PinnedBase) -> None:
    layout = method.layout(pinned)
    assert layout.digest == method.layout(pinned).digest
    state = method.initial_state(pinned)
    w = method.released(state)
    assert w.shape == (method.dimension(pinned),)
    np.testing.assert_array_equal(state[: w.size], w)
    whole = whole_w(method, pinned, w)
    np.testing.assert_array_equal(layout.flatten(layout.unflatten(whole)), whole)


def test_a_state_begins_at_any_w_and_remembers_nothing_of_another(method: Method, pinned: PinnedBase) -> None:
    """An average of w too begins there: what is released before a round is w itself."""
    initial, d = method.initial_state(pinned), method.dimension(pinned)
    np.testing.assert_array_equal(state_at(method, pinned, initial[:d]), initial)
    w = np.linspace(-1, 1, d, dtype=np.float32)
    state = state_at(method, pinned, w)
    assert state.shape == initial.shape
    np.testing.assert_array_equal(state[:d], w)
    np.testing.assert_array_equal(method.released(state), w)
    for wrong in (w[1:], np.full(d, np.nan, dtype=np.float32)):
        with pytest.raises(MechanismViolation, match="is no start of"):
            state_at(method, pinned, wrong)


def test_the_release_holds_the_layouts_tensors_alone(method: Method, pinned: PinnedBase) -> None:
    layout = method.layout(pinned)
    w = np.arange(method.dimension(pinned), dtype=np.float32)
    (tensors,) = method.weights(pinned, w).values()
    assert set(tensors) == {name for name, _ in (*layout.tensors, *layout.fixed)}
    scale = getattr(method.options, "alpha", 1.0) / getattr(method.options, "rank", 1)
    for name, values in layout.unflatten(whole_w(method, pinned, w)).items():
        expected = values * np.float32(scale) if ".lora_B." in name else values
        np.testing.assert_allclose(tensors[name].reshape(-1), expected.reshape(-1), rtol=1e-5, atol=1e-6)
    assert all(method.fixed(name) is None for name, _ in layout.tensors)
    for name, shape in layout.fixed:
        draw = method.fixed(name)
        assert draw is not None
        np.testing.assert_array_equal(tensors[name], draw(shape))
        assert not np.array_equal(tensors[name], np.zeros(shape))


def test_a_release_tells_whose_layout_it_is(method: Method, pinned: PinnedBase) -> None:
    """From names and shapes alone, and of no other names or shapes: what the study moves, and what is fixed."""
    layout = method.layout(pinned)
    released = method.weights(pinned, np.zeros(method.dimension(pinned), dtype=np.float32))
    assert set(released) == set(method.release_format.files)
    # In no order: a file of safetensors has its own.
    shapes = {file: {name: tensors[name].shape for name in reversed(tensors)} for file, tensors in released.items()}
    assert released_layout(method, shapes) == layout
    (file,) = shapes
    for name, shape in (layout.tensors[0], *layout.fixed[:1]):
        for changed in ({name: (*shape[:-1], shape[-1] + 1)}, {f"{name}.x": shape}):
            other = released_layout(method, {file: {**shapes[file], **changed}})
            assert other is None or other.digest != layout.digest


def test_a_release_that_does_not_fit_changes_nothing(method: Method, pinned: PinnedBase) -> None:
    plain = load_base(pinned)
    before = [one.clone() for part in parts_of(plain) for one in part.parameters()]
    released = method.weights(pinned, np.ones(method.dimension(pinned), dtype=np.float32))
    ((file, tensors),) = released.items()
    with pytest.raises(UnfitWeights):
        attach(plain, {file: {**tensors, "unet.no_such_layer": np.ones((3, 3), dtype=np.float32)}})
    after = [one for part in parts_of(plain) for one in part.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def parts_of(base: LoadedBase) -> tuple[torch.nn.Module, ...]:
    told = () if base.pinned.kind == "class" else (base.pipeline.text_encoder,)
    return base.pipeline.unet, *told, base.pipeline.vae


def test_lighter_methods_adapt_the_same_and_take_less(method: Method, pinned: PinnedBase) -> None:
    for advice, lighter in method.lighter():
        assert type(lighter) is type(method)
        assert lighter.layout(pinned) == method.layout(pinned)
        keys = re.findall(r"method\.(\w+) = (\d+)", advice)
        assert keys
        assert all(getattr(lighter.options, key) == int(value) for key, value in keys)
        assert sum(int(value) for _, value in keys) < sum(getattr(method.options, key) for key, _ in keys)


def test_a_caption_holds_the_token_if_the_method_learns_a_word_and_else_not(method: Method, pinned: PinnedBase) -> None:
    method.check(pinned, caption_of(method))
    with pytest.raises(StudyError, match="token"):
        method.check(pinned, CAPTIONS[not method.token])


@of_units
def test_a_step_by_zero_changes_nothing(method: Method, pinned: PinnedBase) -> None:
    state = method.initial_state(pinned)
    moved = method.step(state, np.zeros(row_length(method, pinned)))
    assert (moved.shape, moved.dtype) == (state.shape, np.float32)
    if getattr(method.options, "optimiser", "") != "adamw":  # decay moves w by itself
        np.testing.assert_allclose(method.released(moved), method.released(state), rtol=1e-6)


@of_units
def test_steps_depend_on_the_kept_array_alone(method: Method, pinned: PinnedBase) -> None:
    """A new instance, as after a crash, gives bit-identical states."""
    drawn = np.random.Generator(np.random.Philox(key=3)).standard_normal((4, row_length(method, pinned)))
    state = again = method.initial_state(pinned)
    for mean in drawn:
        state = method.step(state, mean)
        fresh = type(method)(method.options)
        again = fresh.step(np.frombuffer(again.tobytes(), dtype=np.float32), mean)
    np.testing.assert_array_equal(state, again)
    assert not np.array_equal(method.released(state), method.released(method.initial_state(pinned)))


@pytest.mark.parametrize("case", TRAINED, ids=_named, indirect=True)
def test_stock_diffusers_reads_what_rows_were_trained_as(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    """A unit's loss at w, as rows compute it, is that of the base with the released weights in it."""
    drawn = np.random.Generator(np.random.Philox(key=5)).standard_normal(method.dimension(pinned))
    drawn *= 0.2 * (method.layout(pinned).size / drawn.size) ** 0.5  # as long in public directions
    w = method.initial_state(pinned)[: drawn.size] + drawn.astype(np.float32)
    prompt = fill_caption(caption_of(method), method.token, {"finding": "mass"})
    adapted = load_base(pinned)
    attach(adapted, method.weights(pinned, w))
    released = predicted(adapted, told(adapted, prompt))
    w = whole_w(method, pinned, w)
    if method.token:
        names = [name for name, _ in method.layout(pinned).tensors]
        tokens = RowTokens(base, names, method.options.vectors)
        with tokens.bound(torch.from_numpy(w).reshape(1, len(names) * method.options.vectors, -1)), torch.no_grad():
            trained = predicted(base, base.pipeline.text_encoder(tokens.tokenise([prompt]))[0])
    else:
        batch = UnitBatch(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64), 1)
        assert isinstance(method, GradientMethod)
        with method._trained(base, w) as inside, torch.no_grad():
            trained = predicted(base, inside.condition([prompt], batch))
    torch.testing.assert_close(released, trained, atol=2e-5, rtol=1e-4)
    plain = load_base(pinned)
    before = predicted(plain, told(plain, prompt.replace("<private>", "picture")))
    assert not torch.allclose(released, before, atol=1e-3)


def told(base: LoadedBase, prompt: str) -> torch.Tensor:
    """What the network is told of a prompt, by stock diffusers where it is told text."""
    if base.pinned.kind == "class":
        label: torch.Tensor = base.conditions([prompt])
        return label
    states: torch.Tensor = base.pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    return states


@torch.no_grad()
def predicted(base: LoadedBase, condition: torch.Tensor | None) -> torch.Tensor:
    x_t = torch.from_numpy(np.random.Generator(np.random.Philox(key=8)).standard_normal((1, 4, 8, 8), dtype=np.float32))
    found: torch.Tensor = base.predict(x_t, 600, condition)
    return found


def test_the_sample_prompts_differ_by_the_token_if_there_is_one(method: Method) -> None:
    before, after = method.sample_prompts(caption_of(method))
    if method.token:
        assert method.token in after
        assert method.token not in before
    elif method.name in TOLD_CLASSES:
        assert (before, after) == ("", "")  # no class, so none is said
        assert method.sample_prompts(caption_of(method), ClassShown(0, "mass", "finding")) == ("", "mass")
    else:
        assert before == "a picture"
        assert after == ("" if method.name == "dp-prototypes" else "a picture")


def test_c_from_public_images_is_the_same_every_time(method: Method, pinned: PinnedBase) -> None:
    first = method.public_lengths(load_base(pinned), caption_of(method), 4)
    assert first.shape == (4,)
    assert (first > 0).all()
    np.testing.assert_array_equal(method.public_lengths(load_base(pinned), caption_of(method), 4), first)


def test_every_registered_method_is_listed_here() -> None:
    assert set(VARIANTS) == set(METHODS)
