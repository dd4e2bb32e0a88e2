"""What every registered method must keep to (DESIGN 8): one unit, one row, and only the layout is released."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undertone.methods.dpagg_ti import fill_caption
from undertone.methods.protocol import Method, UnitRecords
from undertone.methods.registry import METHODS, method_for
from undertone.models.adapted import attach
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.models.tokens import RowTokens
from undertone.study import MethodTable

CAPTION = "a {token}, {finding}"
# Each method in the shapes that its options give it; a new method adds a line.
VARIANTS: dict[str, list[dict[str, Any]]] = {"dpagg-ti": [{"steps": 4}, {"steps": 3, "vectors": 2, "rescale": 1.5}]}
CASES = [(name, options) for name in METHODS for options in VARIANTS[name]]


@pytest.fixture(params=["tiny_base", "epsilon_base"])
def pinned(request: pytest.FixtureRequest) -> PinnedBase:
    """A base that predicts v (DDIM) and one that predicts noise (PNDM)."""
    folder: Path = request.getfixturevalue(request.param)
    return pin(str(folder))


@pytest.fixture
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].get('vectors', 1)}")
def method(request: pytest.FixtureRequest) -> Method:
    name, options = request.param
    return method_for(MethodTable.model_validate({"name": name, **options}))


def make_units(method: Method, count: int, first: int = 0) -> list[UnitRecords]:
    """Units with 1 to 3 images each; unit `number` is the same in every list and call."""
    units = []
    for number in range(first, first + count):
        drawn = np.random.Generator(np.random.Philox(key=1000 + number))
        images = 1 + number % 3
        latents = drawn.standard_normal((images, 4, 8, 8), dtype=np.float32)
        findings = [("clear", "mass")[index % 2] for index in range(images)]
        captions = tuple(fill_caption(CAPTION, method.options.token, {"finding": word}) for word in findings)
        units.append(UnitRecords(latents, captions, np.random.Generator(np.random.Philox(key=number))))
    return units


def rows_of(method: Method, base: LoadedBase, pinned: PinnedBase, units: Sequence[UnitRecords]) -> NDArray[np.float32]:
    return method.rows(base, method.initial_state(pinned), units, lambda _steps: None)


def test_rows_have_the_layouts_size_and_move(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    rows = rows_of(method, base, pinned, make_units(method, 3))
    assert rows.shape == (3, method.layout(pinned).size)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert (np.abs(rows).max(axis=1) > 1e-4).all()
    assert len({row.tobytes() for row in rows}) == 3


def test_a_changed_unit_moves_its_own_row_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    before = rows_of(method, base, pinned, make_units(method, 5))
    for changed in (0, 3):
        units = make_units(method, 5)
        units[changed] = make_units(method, 1, first=77)[0]
        after = rows_of(method, base, pinned, units)
        others = [index for index in range(5) if index != changed]
        np.testing.assert_array_equal(after[others], before[others])
        assert not np.array_equal(after[changed], before[changed])


def test_a_unit_of_extreme_values_moves_its_own_row_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    before = rows_of(method, base, pinned, make_units(method, 4))
    for value in (np.nan, np.inf, 1e30, 0.0):
        units = make_units(method, 4)
        units[1].latents.fill(value)
        after = rows_of(method, base, pinned, units)
        np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_permuted_units_give_permuted_rows(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    order = [3, 0, 4, 1, 2]
    rows = rows_of(method, base, pinned, make_units(method, 5))
    units = make_units(method, 5)
    permuted = rows_of(method, base, pinned, [units[index] for index in order])
    np.testing.assert_allclose(permuted, rows[order], atol=1e-5)


def test_no_unit_gives_no_row(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    assert rows_of(method, base, pinned, []).shape == (0, method.layout(pinned).size)


def test_sixteen_at_once_equal_sixteen_alone(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    together = rows_of(method, base, pinned, make_units(method, 16))
    alone = [rows_of(method, base, pinned, make_units(method, 1, first=number))[0] for number in range(16)]
    np.testing.assert_allclose(together, np.array(alone), atol=1e-4)
    assert np.abs(together).max() > 100 * 1e-4  # else the bound above would say nothing


def test_rows_repeat_and_use_no_other_randomness(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    torch.manual_seed(1)
    first = rows_of(method, base, pinned, make_units(method, 2))
    torch.manual_seed(2)
    np.testing.assert_array_equal(rows_of(method, base, pinned, make_units(method, 2)), first)


def test_computing_rows_leaves_the_base_as_it_was(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    method.rows(base, method.initial_state(pinned), make_units(method, 1), lambda _steps: None)
    parts = (base.pipeline.unet, base.pipeline.text_encoder, base.pipeline.vae)
    before = [parameter.clone() for part in parts for parameter in part.parameters()]
    rows_of(method, base, pinned, make_units(method, 2))
    after = [parameter for part in parts for parameter in part.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in after)


def test_progress_counts_every_step_of_every_unit(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    seen: list[int] = []
    method.rows(base, method.initial_state(pinned), make_units(method, 3), seen.append)
    assert sum(seen) == 3 * method.options.steps


def test_the_layout_is_the_same_every_time_and_differs_with_its_names(method: Method, pinned: PinnedBase) -> None:
    layout = method.layout(pinned)
    assert layout.digest == method.layout(pinned).digest
    state = method.initial_state(pinned)
    assert state.shape == (layout.size,)
    np.testing.assert_array_equal(layout.flatten(layout.unflatten(state)), state)


def test_the_release_holds_the_layouts_tensors_alone(method: Method, pinned: PinnedBase) -> None:
    layout = method.layout(pinned)
    state = np.arange(layout.size, dtype=np.float32)
    (tensors,) = method.weights(state).values()
    assert set(tensors) == {name for name, _ in layout.tensors}
    flat = np.concatenate([tensors[name].reshape(-1) for name, _ in layout.tensors])
    np.testing.assert_array_equal(flat, state)


def test_a_step_by_zero_changes_nothing(method: Method, pinned: PinnedBase) -> None:
    state = method.initial_state(pinned)
    moved = method.step(state, np.zeros(state.size))
    np.testing.assert_array_equal(moved, state)
    assert moved.dtype == np.float32


def test_stock_diffusers_reads_what_rows_were_trained_as(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    """The text embedding of the released token is that of a row bound to the same values."""
    state = np.random.Generator(np.random.Philox(key=5)).standard_normal(method.initial_state(pinned).size)
    state = state.astype(np.float32)
    prompt = fill_caption(CAPTION, method.options.token, {"finding": "mass"})
    vectors = method.options.vectors
    tokens = RowTokens(base, method.options.token, vectors)
    with tokens.bound(torch.from_numpy(state).reshape(1, vectors, -1)), torch.no_grad():
        trained = base.pipeline.text_encoder(tokens.tokenise([prompt]))[0]
    adapted = load_base(pinned)
    attach(adapted, method.weights(state))
    released = adapted.pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    torch.testing.assert_close(released, trained, atol=1e-6, rtol=0)
    plain = adapted.pipeline.encode_prompt(fill_caption(CAPTION, "picture", {"finding": "mass"}), "cpu", 1, False)[0]
    assert not torch.allclose(released, plain, atol=1e-3)


def test_the_sample_prompts_differ_by_the_token(method: Method) -> None:
    before, after = method.sample_prompts(CAPTION)
    assert method.options.token in after
    assert method.options.token not in before


def test_c_from_public_images_is_the_same_every_time(method: Method, pinned: PinnedBase) -> None:
    first = method.public_clip_norm(pinned, CAPTION)
    assert first > 0
    assert method.public_clip_norm(pinned, CAPTION) == first


def test_every_registered_method_is_listed_here() -> None:
    assert set(VARIANTS) == set(METHODS)
