"""dpdm: rows against plain autograd, what a study may say, what a release holds, and how it draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray

from tests.support.bases import tiny_class_base, tiny_none_base
from tests.support.unit_batches import grid_for
from undertone.errors import ModelError, StudyError, UnfitWeights
from undertone.methods.choosing import WarmStarted
from undertone.methods.classed import with_classes
from undertone.methods.denoiser.denoising import parametrisation_of
from undertone.methods.denoiser.initial_weights import base_weights, drawn_weights
from undertone.methods.denoiser.options import Figures
from undertone.methods.dpdm.method import DPDM
from undertone.methods.dpdm.options import DPDMOptions
from undertone.methods.protocol import SummingMethod, UnitRecords
from undertone.methods.registry import method_for
from undertone.methods.weights import attach
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.training.parametrisations import denoised

CLASSES = ("one", "b")  # the base has "b"; "one" takes the first row that is left
BASE_CLASSES = ("a", "b", "c")
STARTS: list[dict[str, Any]] = [
    {},
    *({"initial_weights": "scratch", "parametrisation": name} for name in ("base", "edm", "v", "vp", "ve")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_class_base(tmp_path_factory.mktemp("class"), BASE_CLASSES)


@pytest.fixture(scope="module")
def pinned(folder: Path) -> PinnedBase:
    return pin(str(folder))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> PinnedBase:
    return pin(str(tiny_none_base(tmp_path_factory.mktemp("none"), pixels=True, channels=1, side=8)))


def made(**options: Any) -> DPDM:
    method = with_classes(method_for("dpdm", options), CLASSES if options.get("per_class", True) else [])
    assert isinstance(method, DPDM)
    return method


def unit(number: int, images: int = 1, shape: tuple[int, ...] = (4, 4, 4)) -> UnitRecords:
    drawn = np.random.Generator(np.random.Philox(key=500 + number))
    latents = drawn.standard_normal((images, *shape), dtype=np.float32)
    classes = np.array([(number + image) % 2 for image in range(images)])
    names = tuple(CLASSES[place] for place in classes)
    return UnitRecords(latents, names, np.random.Generator(np.random.Philox(key=number)), classes=classes)


def start_of(method: DPDM, pinned: PinnedBase) -> NDArray[np.float32]:
    return method.initial_state(pinned)[: method.dimension(pinned)]


# --- rows -----------------------------------------------------------------------------------------


def oracle_row(method: DPDM, base: LoadedBase, w: NDArray[np.float32], one: UnitRecords) -> NDArray[np.float64]:
    """Draw by draw in float64: the mean over records of the mean over their draws, in the order of the layout."""
    options, generator = method.options, one.generator
    rows = options.draws * options.records
    noise = generator.standard_normal((rows, *one.inputs.shape[1:]), dtype=np.float32)
    phase = generator.random()
    dropped = [generator.random() < options.caption_dropout for _ in range(rows)]
    named = method.layout(base.pinned).unflatten(w)
    unet = UNet2DModel.from_pretrained(base.pinned.folder / "unet").double()
    parameters = dict(unet.named_parameters())
    labels = {"class.one": 0, "class.b": 1, "null": 3}
    with torch.no_grad():
        for name, values in named.items():
            if name in labels:
                parameters["class_embedding.weight"][labels[name]] = torch.from_numpy(values.copy()).double()
            else:
                parameters[name.removeprefix("unet.")].copy_(torch.from_numpy(values.copy()))
    of, found = parametrisation_of(base, Figures.of(options)), {}
    for row in range(rows):
        record = (row // options.draws) % len(one.captions)
        u = (phase + row * (5**0.5 - 1) / 2) % 1.0
        sigma = of.sigma(torch.tensor([options.min_time + (1 - options.min_time) * u], dtype=torch.float64))
        label = 3 if dropped[row] else labels[f"class.{one.captions[record]}"]
        x_0, n = torch.from_numpy(one.inputs[record])[None].double(), torch.from_numpy(noise[row])[None].double()
        c = of.coefficients(sigma)
        x = x_0 + sigma * n
        answer = unet(c.into * x, c.noise, torch.tensor([label])).sample
        loss = of.weight(sigma) * (c.skip * x + c.out * answer - x_0).square().mean()
        gradients = torch.autograd.grad(loss.squeeze(), list(parameters.values()))
        whole = dict(zip(parameters, gradients, strict=True))
        flat = [
            whole["class_embedding.weight"][labels[name]] if name in labels else whole[name.removeprefix("unet.")]
            for name in named
        ]
        found.setdefault(record, []).append(torch.cat([part.flatten() for part in flat]).numpy())
    return np.mean([np.mean(of_record, axis=0) for of_record in found.values()], axis=0)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: "-".join(map(str, start.values())) or "base")
def test_a_row_is_the_mean_over_draws_of_the_weighted_losss_gradient(
    base: LoadedBase, pinned: PinnedBase, start: dict[str, Any]
) -> None:
    method = made(**start, draws=3, records=2, caption_dropout=0.4)
    w = start_of(method, pinned)
    for number, images in ((0, 2), (1, 1)):
        (row,) = method.rows(base, w, [unit(number, images)], lambda _steps: None)
        expected = oracle_row(method, base, w, unit(number, images))
        assert np.linalg.norm(row - expected) < 3e-4 * np.linalg.norm(expected)


def test_draws_are_averaged_before_the_clip(base: LoadedBase, pinned: PinnedBase) -> None:
    """The sum is that of rows, each the mean of its draws, cut once: no draw is cut by itself."""
    method = made(draws=8)
    w, units = start_of(method, pinned), [unit(number) for number in range(3)]
    rows = method.rows(base, w, units, lambda _steps: None)
    clip = float(np.median(np.linalg.norm(rows, axis=1)))
    scale, clip_units = grid_for(clip)
    units = [unit(number) for number in range(3)]
    found = method.clipped_sum(base, w, units, scale=scale, clip_units=clip_units)
    factors = np.minimum(1, clip / np.linalg.norm(rows, axis=1))
    assert np.linalg.norm(found / scale - factors @ rows) < 3e-3 * clip


def test_a_unit_moves_the_integer_sum_by_s_c_at_most(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made(initial_weights="scratch", parametrisation="edm", draws=2)
    assert isinstance(method, SummingMethod)
    assert method.sums(pinned)
    w = start_of(method, pinned)
    extreme = unit(9)
    extreme.inputs.fill(1e3)
    broken = unit(8)
    broken.inputs.fill(np.nan)
    for clip in (0.05, 10.0):
        scale, clip_units = grid_for(clip)

        def summed(*batch: UnitRecords | None, grid: tuple[int, int] = (scale, clip_units)) -> NDArray[np.int64]:
            fresh = [one and replace(one, generator=np.random.Generator(np.random.Philox(key=3))) for one in batch]
            return method.clipped_sum(base, w, fresh, scale=grid[0], clip_units=grid[1])

        without = summed(unit(0), unit(1), None)
        for other in (unit(2), extreme):
            moved = summed(unit(0), unit(1), other) - without
            assert 0 < int(np.square(moved).sum()) <= clip_units**2
        np.testing.assert_array_equal(summed(unit(0), unit(1), broken), without)


def test_names_are_the_plans_however_a_table_spells_them(base: LoadedBase, pinned: PinnedBase) -> None:
    method, w = made(draws=1), start_of(made(draws=1), pinned)
    (plain,) = method.rows(base, w, [unit(0)], lambda _steps: None)
    (spaced,) = method.rows(base, w, [replace(unit(0), captions=(" one ",))], lambda _steps: None)
    np.testing.assert_array_equal(plain, spaced)


def test_a_dropped_label_is_the_null_row_and_each_draw_drops_by_itself(base: LoadedBase, pinned: PinnedBase) -> None:
    """A row with dropout has gradients in its class's row and in the null label's, and in no other."""
    method = made(draws=16, caption_dropout=0.5)
    named = method.layout(pinned).unflatten(
        method.rows(base, start_of(method, pinned), [unit(0)], lambda _steps: None)[0]
    )
    assert np.linalg.norm(named["class.one"]) > 0
    assert np.linalg.norm(named["null"]) > 0
    assert not named["class.b"].any()
    never = made(draws=16, caption_dropout=0.0)
    kept = never.layout(pinned).unflatten(never.rows(base, start_of(never, pinned), [unit(0)], lambda _steps: None)[0])
    assert not kept["null"].any()


# --- the start ------------------------------------------------------------------------------------


def test_a_public_start_is_the_base_and_class_rows_follow_labels(base: LoadedBase, pinned: PinnedBase) -> None:
    named = made().layout(pinned).unflatten(start_of(made(), pinned))
    held = dict(base.pipeline.unet.named_parameters())
    for name, values in named.items():
        if name.startswith("unet."):
            np.testing.assert_array_equal(values, held[name.removeprefix("unet.")].detach().numpy())
    table = held["class_embedding.weight"].detach().numpy()
    np.testing.assert_array_equal(named["class.b"], table[1])
    np.testing.assert_array_equal(named["class.one"], table[0])
    np.testing.assert_array_equal(named["null"], table[3])


def test_a_start_from_scratch_follows_from_its_seed_alone(pinned: PinnedBase) -> None:
    one, again, other = (start_of(made(initial_weights="scratch", initial_seed=seed), pinned) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert np.mean(one == other) < 0.2  # norms alone
    named = made().layout(pinned).unflatten(one)
    weight = named["unet.conv_in.weight"]
    bound = 1 / np.sqrt(np.prod(weight.shape[1:]))
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert abs(weight.mean()) < 0.2 * bound
    assert (named["unet.conv_norm_out.weight"] == 1).all()
    assert not named["unet.conv_norm_out.bias"].any()
    assert 0 < np.abs(named["unet.conv_out.bias"]).max() <= 1 / np.sqrt(8 * 9)
    assert set(drawn_weights(pinned.shapes("unet"), 0)) == set(base_weights(pinned))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parametrisation": "edm"}, "initial_weights = "),
        ({"churn_min": 9.0, "churn_max": 1.0}, "churn_max"),
        ({"sampler": "ddim", "churn": 3.0}, "churn"),
        ({"parametrisation": "vdm"}, "parametrisation"),
        ({"sigma_min": 0.0}, "sigma_min"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        method_for("dpdm", options)


def test_a_study_says_what_its_base_is_told(pinned: PinnedBase, untold: PinnedBase, tiny_base: Path) -> None:
    made().check(pinned, "{digit}")
    made(per_class=False).check(untold, "an image")
    for method, other, caption, kind, words in (
        (made(), pinned, "a {digit}", StudyError, "class column alone"),
        (made(), pinned, "digit", StudyError, "class column alone"),
        (made(), untold, "{digit}", StudyError, "per_class = false"),
        (made(per_class=False), pinned, "an image", StudyError, "per_class = true"),
        (made(), pin(str(tiny_base)), "{digit}", ModelError, "told text"),
    ):
        with pytest.raises(kind, match=words):
            method.check(other, caption)
    many = with_classes(method_for("dpdm", {}), ["1", "2", "3", "4"])
    with pytest.raises(ModelError, match="do not fit"):
        many.check(pinned, "{digit}")


# --- the release ----------------------------------------------------------------------------------


def moved(method: DPDM, pinned: PinnedBase) -> NDArray[np.float32]:
    drawn = np.random.Generator(np.random.Philox(key=11)).standard_normal(method.dimension(pinned))
    return start_of(method, pinned) + 0.02 * drawn.astype(np.float32)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: "-".join(map(str, start.values())) or "base")
def test_an_attached_release_denoises_as_it_was_trained(
    base: LoadedBase, pinned: PinnedBase, start: dict[str, Any]
) -> None:
    method = made(**start)
    w = moved(method, pinned)
    adapted = load_base(pinned)
    attach(adapted, method.weights(pinned, w))
    assert adapted.labels == {"b": 1, "one": 0}
    x, sigma = (
        3 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5)),
        torch.tensor([3.0, 0.5]).double(),
    )
    of, names = parametrisation_of(base, Figures.of(method.options)), ["one", ""]
    with method._trained_at(base, w) as trained, torch.no_grad():
        labels = trained.condition(names, None)  # type: ignore[arg-type]
        expected = denoised(of, lambda x, t: base.predict(x, t, labels), x, sigma)
    found = denoised(of, lambda x, t: adapted.predict(x, t, adapted.conditions(names)), x, sigma)
    torch.testing.assert_close(found.detach(), expected)


def test_the_release_names_its_classes_and_says_how_to_draw(pinned: PinnedBase) -> None:
    method = made(sampler="ddim", sigma_max=40.0)
    ((name, tensors),) = method.weights(pinned, moved(method, pinned)).items()
    assert name == "denoiser.safetensors"
    assert {key for key in tensors if not key.startswith("unet.")} == {"class.b", "class.one", "null", "drawing"}
    figures = Figures.from_tensor(tensors["drawing"])
    assert (figures.parametrisation, figures.sampler, figures.sigma_max) == ("base", "ddim", 40.0)
    for name_ in Figures.__dataclass_fields__:
        held, said = getattr(figures, name_), getattr(method.options, name_)
        assert held == (said if isinstance(said, str) else pytest.approx(said, rel=1e-6))


@pytest.mark.parametrize(
    ("place", "value"), [(0, 5.0), (0, 0.5), (0, -1.0), (4, 9.0), (5, 0.0), (6, 1e6), (7, 0.0), (8, -1.0), (10, 0.0)]
)
def test_figures_that_no_study_has_are_refused(pinned: PinnedBase, place: int, value: float) -> None:
    held = Figures.of(DPDMOptions(churn=3.0)).as_tensor()
    held[place] = value
    method = made()
    (tensors,) = method.weights(pinned, moved(method, pinned)).values()
    plain = load_base(pinned)
    before = {name: one.clone() for name, one in plain.pipeline.unet.named_parameters()}
    with pytest.raises(UnfitWeights, match="figures"):
        attach(plain, {"denoiser.safetensors": {**tensors, "drawing": held}})
    assert all(torch.equal(one, before[name]) for name, one in plain.pipeline.unet.named_parameters())


def test_what_does_not_fit_the_base_is_refused(pinned: PinnedBase, untold: PinnedBase) -> None:
    method = made()
    (tensors,) = method.weights(pinned, moved(method, pinned)).values()
    for changed in (
        {"class.one": np.zeros(7, dtype=np.float32)},
        {"class.c": tensors["null"], "class.d": tensors["null"]},
        {"unet.conv_in.bias": np.zeros(9, dtype=np.float32)},
        {"unet.class_embedding.weight": np.zeros((4, 32), dtype=np.float32)},
    ):
        with pytest.raises(UnfitWeights):
            attach(load_base(pinned), {"denoiser.safetensors": {**tensors, **changed}})
    for missing in ("null", "drawing", "unet.conv_in.bias"):
        less = {name: one for name, one in tensors.items() if name != missing}
        with pytest.raises(UnfitWeights):
            attach(load_base(pinned), {"denoiser.safetensors": less})
    with pytest.raises(UnfitWeights):
        attach(load_base(untold), {"denoiser.safetensors": tensors})


@pytest.mark.parametrize("sampler", ["ddim", "stochastic", "heun"])
def test_an_image_follows_from_its_seed_and_its_class(pinned: PinnedBase, sampler: str) -> None:
    method = made(initial_weights="scratch", parametrisation="edm", sampler=sampler)
    adapted = load_base(pinned)
    attach(adapted, method.weights(pinned, moved(method, pinned)))
    together = adapted.sample(["one", "b", "", "one"], [1, 2, 3, 4], steps=4, guidance=1.5)
    assert [image.size for image in together] == [(16, 16)] * 4
    for prompt, seed, image in zip(["one", "b", "", "one"], [1, 2, 3, 4], together, strict=True):
        (alone,) = adapted.sample([prompt], [seed], steps=4, guidance=1.5)
        assert np.abs(np.asarray(alone, dtype=int) - np.asarray(image, dtype=int)).max() <= 1
    plain = adapted.sample(["one"], [1], steps=4, guidance=1.0)[0]
    assert np.asarray(plain).tobytes() != np.asarray(together[0]).tobytes()
    with pytest.raises(ModelError, match="none"):
        adapted.sample(["a"], [1], steps=2, guidance=1.0)


def test_a_base_that_is_told_nothing_trains_and_draws_in_pixels(untold: PinnedBase) -> None:
    method, loaded = made(per_class=False, initial_weights="scratch", parametrisation="edm", draws=2), load_base(untold)
    assert [name for name, _ in method.layout(untold).tensors if not name.startswith("unet.")] == []
    rows = method.rows(loaded, start_of(method, untold), [unit(1, shape=(1, 8, 8))], lambda _steps: None)
    assert rows.shape == (1, method.dimension(untold))
    assert np.isfinite(rows).all()
    attach(loaded, method.weights(untold, moved(method, untold)))
    (image,) = loaded.sample(["an image"], [1], steps=3, guidance=2.0)
    pixels = np.asarray(image)
    assert pixels.shape == (8, 8, 3)
    assert (pixels == pixels[..., :1]).all()


# --- the warm start -------------------------------------------------------------------------------


def test_a_warm_start_lowers_the_loss_is_the_seeds_and_leaves_the_base(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made(initial_weights="scratch", parametrisation="edm")
    assert isinstance(method, WarmStarted)
    before = [one.clone() for one in base.pipeline.unet.parameters()]
    drawn = np.random.Generator(np.random.Philox(key=2))
    classes = drawn.integers(2, size=40)
    shift = (2.0 * classes - 1)[:, None, None, None]
    latents = (shift + 0.1 * drawn.standard_normal((40, 4, 4, 4))).astype(np.float32)

    def loss(w: NDArray[np.float32]) -> float:
        with method._trained_at(base, w) as trained, torch.no_grad():
            of_row = method._loss(base)
            noise = torch.randn(40, 4, 4, 4, generator=torch.Generator().manual_seed(1))
            condition = trained.condition([CLASSES[place] for place in classes], None)  # type: ignore[arg-type]
            return float(of_row(torch.from_numpy(latents), noise, np.linspace(0.05, 0.95, 40), condition).mean())

    start = method.warm_start(base, latents, classes, 0, 7)
    np.testing.assert_array_equal(start, start_of(method, pinned))
    w = method.warm_start(base, latents, classes, 40, 7)
    assert loss(w) < 0.85 * loss(start)
    few = method.warm_start(base, latents, classes, 2, 7)
    np.testing.assert_array_equal(few, method.warm_start(base, latents, classes, 2, 7))
    assert not np.array_equal(few, method.warm_start(base, latents, classes, 2, 8))
    assert w.dtype == np.float32
    assert all(torch.equal(one, other) for one, other in zip(base.pipeline.unet.parameters(), before, strict=True))
    assert not any(one.requires_grad or one.grad is not None for one in base.pipeline.unet.parameters())


def test_a_warm_start_without_classes_trains_the_null_label(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made()
    latents = np.ones((8, 4, 4, 4), dtype=np.float32)
    named = method.layout(pinned).unflatten(method.warm_start(base, latents, None, 3, 1))
    start = method.layout(pinned).unflatten(start_of(method, pinned))
    assert not np.array_equal(named["null"], start["null"])
    np.testing.assert_array_equal(named["class.one"], start["class.one"])
