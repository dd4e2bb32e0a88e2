"""`dp-ldm` on bases that are told a class or nothing: rows, releases and whole studies, as on a text base."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.methods import test_conformance as conformance
from tests.support.bases import tiny_class_base, tiny_none_base
from undertone.errors import ModelError, StudyError, UnfitWeights
from undertone.gradients.oracle import clip_and_sum
from undertone.methods.classed import with_classes
from undertone.methods.protocol import Method, SummingMethod, UnitRecords, check_needs, settled
from undertone.methods.registry import method_for
from undertone.methods.weights import attach, released_layout
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin

STUDY = ("mass", "clear")  # of a base with four classes, one of which it has
BASE = ("ant", "clear", "cow", "dog")
CAPTION = "{finding}"
# The options of each case and its base; latents of 4 x 8 x 8, but for pixels.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "class": ("class", {"draws": 2, "records": 3}),
    "class and null": ("class", {"draws": 2, "records": 2, "caption_dropout": 0.4, "blocks": ["mid_block"]}),
    "class rows as they are": ("class", {"draws": 2, "blocks": ["up_blocks.1"], "embedder": False}),
    "class in directions": ("class", {"directions": 4, "direction_drawings": 12, "optimiser": "dog"}),
    "class of pixels": ("pixels", {"draws": 2, "blocks": ["down_blocks"]}),
    "nothing": ("none", {"draws": 2, "records": 2, "optimiser": "adamw", "weight_decay": 0.01}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "class": tiny_class_base(folder / "class", BASE, side=32),
        "pixels": tiny_class_base(folder / "pixels", BASE, side=16, pixels=True, channels=1),
        "none": tiny_none_base(folder / "none", side=32),
    }


# What every method keeps to is asked of these by `make test`, of all by the slow tests.
QUICK = {"class", "class and null", "nothing"}


@pytest.fixture(params=[one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in CASES])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pinned(case: str, folders: dict[str, Path]) -> PinnedBase:
    return pin(str(folders[CASES[case][0]]))


@pytest.fixture
def method(case: str, pinned: PinnedBase) -> Method:
    return made(pinned, **CASES[case][1])


def made(pinned: PinnedBase, **options: Any) -> Method:
    """As it stands in a plan."""
    chosen = method_for("dp-ldm", {"per_class": pinned.kind == "class", **options})
    chosen = with_classes(chosen, STUDY if pinned.kind == "class" else ())
    chosen.check(pinned, CAPTION if pinned.kind == "class" else "a picture")
    return settled(chosen, pinned, CAPTION)[0]


@lru_cache(maxsize=4)
def loaded(folder: str) -> LoadedBase:
    return load_base(pin(folder))


@pytest.fixture
def base(pinned: PinnedBase) -> LoadedBase:
    return loaded(pinned.reference)


def units(base: LoadedBase, count: int, first: int = 0) -> list[UnitRecords]:
    found = []
    for number in range(first, first + count):
        images = 1 + number % 3
        drawn = np.random.Generator(np.random.Philox(key=1000 + number))
        latents = drawn.standard_normal((images, *base.latent_shape), dtype=np.float32)
        places = np.array([(number + index) % 2 for index in range(images)])
        captions = tuple(STUDY[place] for place in places)
        found.append(UnitRecords(latents, captions, np.random.Generator(np.random.Philox(key=number)), classes=places))
    return found


# --- what every method keeps to -------------------------------------------------------------------

KEPT: list[Callable[..., None]] = [
    conformance.test_rows_have_the_dimension_and_move,
    conformance.test_a_changed_unit_moves_its_own_row_alone,
    conformance.test_permuted_units_give_permuted_rows,
    conformance.test_sixteen_at_once_equal_sixteen_alone,
    conformance.test_rows_repeat_and_use_no_other_randomness,
    conformance.test_computing_rows_leaves_the_base_as_it_was,
]
KEPT_OF_RELEASES: list[Callable[..., None]] = [
    conformance.test_the_layout_is_the_same_every_time_and_is_that_of_w,
    conformance.test_a_release_that_does_not_fit_changes_nothing,
    conformance.test_a_step_by_zero_changes_nothing,
    conformance.test_steps_depend_on_the_kept_array_alone,
    conformance.test_lighter_methods_adapt_the_same_and_take_less,
]


@pytest.fixture
def as_conformance(monkeypatch: pytest.MonkeyPatch, base: LoadedBase) -> None:
    monkeypatch.setattr(conformance, "make_units", lambda _method, count, first=0: units(base, count, first))
    monkeypatch.setattr(conformance, "parts_of", lambda one: tuple(one.pipeline.modules.values()))


@pytest.mark.usefixtures("as_conformance")
@pytest.mark.parametrize("kept", KEPT, ids=lambda one: one.__name__)
def test_rows_keep_to_what_every_method_does(
    kept: Callable[..., None], method: Method, base: LoadedBase, pinned: PinnedBase
) -> None:
    before = dict(base.labels)
    kept(method, base, pinned)
    assert base.labels == before


@pytest.mark.usefixtures("as_conformance")
@pytest.mark.parametrize("kept", KEPT_OF_RELEASES, ids=lambda one: one.__name__)
def test_releases_keep_to_what_every_method_does(kept: Callable[..., None], method: Method, pinned: PinnedBase) -> None:
    kept(method, pinned)


def test_a_release_names_each_class_and_tells_whose_layout_it_is(method: Method, pinned: PinnedBase) -> None:
    layout = method.layout(pinned)
    ((file, tensors),) = method.weights(pinned, np.ones(method.dimension(pinned), dtype=np.float32)).items()
    assert set(tensors) == {name for name, _ in (*layout.tensors, *layout.fixed)}
    rows = {name for name in tensors if name.startswith("class.")}
    assert rows == ({"class.mass", "class.clear"} if pinned.kind == "class" else set())
    assert ("null" in tensors) == (method.options.caption_dropout > 0)
    shapes = {file: {name: tensors[name].shape for name in reversed(tensors)}}
    assert released_layout(method, shapes) == layout
    for name, shape in layout.fixed:
        draw = method.fixed(name)
        assert draw is not None
        np.testing.assert_array_equal(tensors[name], draw(shape))


# --- rows against plain autograd ------------------------------------------------------------------


def oracle_row(pinned: PinnedBase, method: Method, w: NDArray[np.float32], one: UnitRecords) -> NDArray[np.float64]:
    """Draw by draw on a base of its own: autograd on its parameters, moved by w, in the order of the layout."""
    options, base = method.options, load_base(pinned)
    generator, rows = one.generator, options.draws * options.records
    noise = generator.standard_normal((rows, *base.latent_shape), dtype=np.float32)
    phase = generator.random()
    left_out = [generator.random() < options.caption_dropout for _ in range(rows)]
    unet, labels = base.pipeline.unet, {"mass": 0, "clear": 1}
    table, moved = dict(unet.named_parameters()), method.layout(pinned).unflatten(w)
    with torch.no_grad():
        for name, difference in moved.items():
            place = table["class_embedding.weight"][row_of(name, labels)] if is_row(name) else table[name[5:]]
            place.add_(torch.from_numpy(np.array(difference)))
    wanted = {name[5:] for name in moved if not is_row(name)} | (
        {"class_embedding.weight"} if any(map(is_row, moved)) else set()
    )
    chosen = {name: table[name].requires_grad_(True) for name in sorted(wanted)}
    by_record: dict[int, list[NDArray[np.float64]]] = {}
    count = base.schedule.config.num_train_timesteps
    for row in range(rows):
        record = (row // options.draws) % len(one.captions)
        fraction = (phase + row * (5**0.5 - 1) / 2) % 1.0
        t = torch.tensor([int((options.min_time + (1 - options.min_time) * fraction) * count)])
        x_0, epsilon = torch.from_numpy(one.inputs[record])[None], torch.from_numpy(noise[row])[None]
        bar = base.schedule.alphas_cumprod[t]
        x_t, v = bar.sqrt() * x_0 + (1 - bar).sqrt() * epsilon, bar.sqrt() * epsilon - (1 - bar).sqrt() * x_0
        told = 4 if left_out[row] else labels[STUDY[one.classes[record]]]
        label = torch.tensor([told]) if pinned.kind == "class" else None
        loss = (unet(x_t, t, class_labels=label).sample - v).square().mean()
        found = dict(zip(chosen, torch.autograd.grad(loss, list(chosen.values()), materialize_grads=True), strict=True))
        parts = [
            found["class_embedding.weight"][row_of(name, labels)] if is_row(name) else found[name[5:]] for name in moved
        ]
        by_record.setdefault(record, []).append(torch.cat([one.reshape(-1) for one in parts]).double().numpy())
    return np.mean([np.mean(found, axis=0) for found in by_record.values()], axis=0)


def is_row(name: str) -> bool:
    return name == "null" or name.startswith("class.")


def row_of(name: str, labels: dict[str, int]) -> int:
    return len(BASE) if name == "null" else labels[name.removeprefix("class.")]


@pytest.mark.parametrize("case", [one for one in CASES if "directions" not in CASES[one][1]], indirect=True)
def test_rows_and_sums_are_those_of_plain_autograd(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    w = (0.05 * np.random.Generator(np.random.Philox(key=4)).standard_normal(method.dimension(pinned))).astype("f4")
    read = method.options.records  # at most so many reach a row
    expected = np.stack([oracle_row(pinned, method, w, at_most(read, one)) for one in units(base, 3)])
    rows = method.rows(base, w, [at_most(read, one) for one in units(base, 3)], lambda _steps: None)
    np.testing.assert_allclose(rows, expected, atol=2e-5 * np.abs(expected).max())
    clip, scale = float(np.median(np.linalg.norm(expected, axis=1))), 1 << 16
    padded = [*(at_most(read, one) for one in units(base, 3)), None]
    assert isinstance(method, SummingMethod)
    total = method.clipped_sum(base, w, padded, scale=scale, clip_units=int(clip * scale))
    wanted, _ = clip_and_sum(expected, clip * (1 - 2**-10))
    np.testing.assert_allclose(total / scale, wanted, atol=4 / scale + 2e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("case", ["class", "class and null", "class of pixels", "nothing"], indirect=True)
def test_neighbours_differ_by_one_row_of_bounded_length(method: Method, base: LoadedBase, pinned: PinnedBase) -> None:
    """Adding a unit adds its own integers to the sum, of length s C at most, whatever it holds; NaN adds nothing."""
    assert isinstance(method, SummingMethod)
    w, scale, clip_units = np.zeros(method.dimension(pinned), dtype=np.float32), 1 << 14, 1 << 10

    def total(*taken: UnitRecords | None) -> NDArray[np.int64]:
        return method.clipped_sum(base, w, taken, scale=scale, clip_units=clip_units)

    def latents(one: UnitRecords, factor: float) -> UnitRecords:
        return replace(one, latents=one.inputs * np.float32(factor))

    first, second = units(base, 2)
    rest = total(*units(base, 2), None)
    for factor in (1.0, 1e3, 1e18):
        mine = total(latents(units(base, 1, first=2)[0], factor))
        whole = total(first, second, latents(units(base, 1, first=2)[0], factor))
        first, second = units(base, 2)
        assert np.array_equal(whole - rest, total(None, None, latents(units(base, 1, first=2)[0], factor)))
        assert (mine.astype(object) ** 2).sum() <= clip_units**2
        assert (mine != 0).any() or factor > 1e3
    assert not total(latents(units(base, 1, first=2)[0], np.nan)).any()


def at_most(count: int, one: UnitRecords) -> UnitRecords:
    assert one.classes is not None
    return replace(one, latents=one.inputs[:count], captions=one.captions[:count], classes=one.classes[:count])


def test_public_rows_move_every_class(folders: dict[str, Path]) -> None:
    """Public drawings are told the study's classes in turn, so C counts their rows of the class embedding."""
    from undertone.methods.public import public_units

    pinned = pin(str(folders["class"]))
    method, base = made(pinned, draws=1), loaded(str(folders["class"]))
    drawn = public_units(base, 5, 4, "", classes=method.drawn_classes)  # type: ignore[attr-defined]
    assert [int(one.classes[0]) for one in drawn] == [1, 0, 1, 0] or [int(one.classes[0]) for one in drawn] == [
        0,
        1,
        0,
        1,
    ]
    rows = method.rows(base, np.zeros(method.dimension(pinned), dtype=np.float32), drawn, lambda _steps: None)
    layout = method.layout(pinned)
    for place, one in enumerate(drawn):
        named = layout.unflatten(rows[place])
        mine, other = (f"class.{STUDY[int(one.classes[0])]}", f"class.{STUDY[1 - int(one.classes[0])]}")
        assert np.abs(named[mine]).max() > 0
        assert np.abs(named[other]).max() == 0
    lengths = method.public_lengths(base, CAPTION, 4)
    assert (lengths > 0).all()


# --- releases -------------------------------------------------------------------------------------


def test_what_is_attached_predicts_what_rows_were_trained_as(
    case: str, method: Method, base: LoadedBase, pinned: PinnedBase
) -> None:
    w = np.random.Generator(np.random.Philox(key=8)).standard_normal(method.dimension(pinned)).astype(
        "f4"
    ) * np.float32(0.1)
    adapted = load_base(pinned)
    attach(adapted, method.weights(pinned, w))
    x, t = torch.randn(2, *base.latent_shape), torch.tensor([20, 700])
    names = ["clear", "mass"] if pinned.kind == "class" else ["", ""]
    whole = conformance.whole_w(method, pinned, w)
    with torch.no_grad():
        with method._trained(base, whole) as inside:  # type: ignore[attr-defined]
            trained = base.predict(x, t, inside.condition(names, None))
        found = adapted.predict(x, t, adapted.conditions(names))
        plain = base.predict(x, t, base.conditions(["clear", ""] if pinned.kind == "class" else ["", ""]))
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=1e-4)
    assert (found[0] - plain[0]).abs().max() > 1e-3
    if pinned.kind == "class":
        assert adapted.labels == {"mass": 0, "clear": 1}


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (
            {"class.a": (32,), "class.b": (32,), "class.c": (32,), "class.d": (32,), "class.e": (32,)},
            "5 classes do not",
        ),
        ({"class.a": (31,)}, "holds class.a"),
        ({"null": (32,)}, "told what this one is"),
        ({"class.a": (32,), "unet.mid_block": (1,)}, "holds unet.mid_block"),
        ({"class.a": (32,), "text_encoder.x": (1,)}, "holds text_encoder.x"),
    ],
)
def test_class_rows_that_do_not_fit_are_refused(
    held: dict[str, tuple[int, ...]], says: str, folders: dict[str, Path]
) -> None:
    base = load_base(pin(str(folders["class"])))
    before = [one.clone() for one in base.pipeline.unet.parameters()]
    tensors = {name: np.ones(shape, dtype=np.float32) for name, shape in held.items()}
    with pytest.raises(UnfitWeights, match=says):
        attach(base, {"class_delta.safetensors": tensors})
    assert all(torch.equal(one, other) for one, other in zip(before, base.pipeline.unet.parameters(), strict=True))
    assert base.labels == {name: row for row, name in enumerate(BASE)}


def test_a_release_of_one_kind_is_refused_by_a_base_of_another(folders: dict[str, Path], tiny_base: Path) -> None:
    row = {"class.a": np.ones(32, dtype=np.float32)}
    one = {"unet.conv_in.bias": np.ones(8, dtype=np.float32)}
    for folder, weights in (
        (folders["none"], {"class_delta.safetensors": row}),
        (tiny_base, {"class_delta.safetensors": row}),
        (folders["class"], {"delta.safetensors": one}),
    ):
        with pytest.raises(UnfitWeights, match="told what this one is"):
            attach(load_base(pin(str(folder))), weights)


def test_exported_classes_stand_where_their_rows_are(folders: dict[str, Path], tmp_path: Path) -> None:
    """What is written is a base of the study's classes, and the lines of the card draw with its stock parts."""
    pinned = pin(str(folders["class"]))
    method, base = made(pinned, blocks=["mid_block"]), load_base(pinned)
    released = method.weights(pinned, np.full(method.dimension(pinned), 0.01, dtype=np.float32))
    attach(base, released)
    method.release_format.fuse(base)
    base.pipeline.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["mass", "clear", "cow", "dog"]
    again = load_base(pin(str(tmp_path / "out")))
    drawn = again.sample(["mass"], [3], steps=2, guidance=1.0)
    assert np.array_equal(np.asarray(drawn[0]), np.asarray(base.sample(["mass"], [3], steps=2, guidance=1.0)[0]))


def test_the_lines_of_the_card_draw_a_class(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("class", "pixels"):
        pinned = pin(str(folders[kind]))
        program = made(pinned).release_format.describe().program.format(prompt='"cow"')
        monkeypatch.chdir(folders[kind])
        names: dict[str, Any] = {}
        exec(program, names)
        assert isinstance(names["image"], Image.Image)
        assert names["image"].size == (pinned.image_size, pinned.image_size)
        assert names["label"].tolist() == [2]


# --- what cannot be -------------------------------------------------------------------------------


def test_a_study_says_what_the_base_is_told(folders: dict[str, Path], tiny_base: Path) -> None:
    bases = {kind: pin(str(folder)) for kind, folder in (*folders.items(), ("text", tiny_base))}
    for kind, per_class, caption, says in (
        ("class", False, CAPTION, "told a class: with dp-ldm say method.per_class = true"),
        ("none", True, CAPTION, "told nothing: with dp-ldm say method.per_class = false"),
        ("text", True, CAPTION, "told words: with dp-ldm say method.per_class = false"),
        ("class", True, "a {finding}", "write the class column alone"),
        ("class", True, "mass", "write the class column alone"),
    ):
        method = with_classes(method_for("dp-ldm", {"per_class": per_class}), STUDY)
        with pytest.raises(StudyError, match=says):
            method.check(bases[kind], caption)
    many = with_classes(method_for("dp-ldm", {"per_class": True}), ("a", "b", "c", "d", "e"))
    with pytest.raises(ModelError, match="5 classes do not fit"):
        many.check(bases["class"], CAPTION)
    with pytest.raises(StudyError, match="a list that you type"):
        with_classes(method_for("dp-ldm", {"per_class": True}), ())
    for name in ("dpagg-ti", "dpsgd-ti", "dp-lora"):
        with pytest.raises(ModelError, match=f"{name} needs a base with text_encoder and tokenizer"):
            check_needs(method_for(name, {}), bases["class"])
