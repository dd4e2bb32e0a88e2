"""What `undertone evaluate` is made of: random directions, losses of images, shares of classes, folders, prompts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.gradient_studies import SMALL, TOLD_CLASSES
from tests.support.images import pixels, write_csv, write_folder
from undertone.core.progress import reporting
from undertone.errors import DataError, InputError
from undertone.evaluation.membership import Scored, attack
from undertone.methods.losses import denoising_loss
from undertone.methods.protocol import Method
from undertone.methods.registry import METHODS, method_for
from undertone.methods.release_format import Weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.study.plan import PlannedData
from undertone_cli.evaluating import comparison
from undertone_cli.evaluating.attacks import Drawn
from undertone_cli.evaluating.classifiers import by_small_cnn
from undertone_cli.evaluating.evaluation import plain
from undertone_cli.evaluating.folders import Columns, image_folder, refuse_shared
from undertone_cli.evaluating.images import PUBLIC, ImageFiles, ImageSet, featured
from undertone_cli.evaluating.losses import image_losses
from undertone_cli.evaluating.prompts import prompts_for
from undertone_cli.evaluating.variants import Sampling, Variant, drawn, loaded, random_direction

WORD = method_for("dpagg-ti", {"steps": 3})
LORA = method_for("dp-lora", SMALL["dp-lora"])


@pytest.fixture(scope="module")
def pinned(tiny_base: Path) -> PinnedBase:
    return pin(str(tiny_base))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


# --- random directions ------------------------------------------------------------------------------


def moved(method: Method, pinned: PinnedBase, length: float) -> Weights:
    """A release whose w lies `length` from the start."""
    w = method.released(method.initial_state(pinned))
    step = np.random.default_rng(1).normal(size=w.size)
    return method.weights(pinned, (w + length * step / np.linalg.norm(step)).astype(np.float32))


def values(weights: Weights) -> np.ndarray:
    return np.concatenate([t.ravel() for one in weights.values() for _, t in sorted(one.items())]).astype(np.float64)


ODD: dict[str, dict[str, Any]] = {
    "dp-lora": {"alpha": 6},  # the file holds B times alpha / r
    "dpagg-ti": {"per_class": True, "class_names": ["mass", "clear"]},
    "dpdm": {"class_names": ["mass", "clear"]},
    "dp-sad": {"class_names": ["mass", "clear"]},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_random_direction_is_as_far_from_the_base_as_the_release_and_loads(
    name: str, pinned: PinnedBase, class_base: Path
) -> None:
    if name in TOLD_CLASSES:
        pinned = pin(str(class_base))
    method = method_for(name, SMALL[name] | ODD.get(name, {}))
    start, release = moved(method, pinned, 0.0), moved(method, pinned, 0.7)
    found = [random_direction(method, pinned, release, number) for number in (1, 2)]
    length = np.linalg.norm(values(release) - values(start))
    for one in found:
        assert np.linalg.norm(values(one) - values(start)) == pytest.approx(length, rel=1e-4)
        loaded(pinned, "cpu", one)
    assert np.linalg.norm(values(found[0]) - values(found[1])) > length
    np.testing.assert_array_equal(values(random_direction(method, pinned, release, 1)), values(found[0]))


def test_a_release_that_did_not_move_has_no_random_direction_either(pinned: PinnedBase) -> None:
    start = moved(WORD, pinned, 0.0)
    np.testing.assert_array_equal(values(random_direction(WORD, pinned, start, 1)), values(start))


# --- drawing ----------------------------------------------------------------------------------------


def test_images_are_drawn_class_by_class_and_each_class_from_the_same_seeds(base: LoadedBase) -> None:
    found = list(drawn(base, {"a": "a picture", "b": "a scan"}, Sampling(9, 1, seed=5)))
    assert [one for one, _ in found] == ["a"] * 9 + ["b"] * 9
    alone = base.sample(["a scan"] * 2, [5, 5 + 8], steps=1, guidance=1.0)
    for place, image in zip((9, 17), alone, strict=True):
        np.testing.assert_allclose(np.asarray(found[place][1]), np.asarray(image), atol=1)


# --- losses -----------------------------------------------------------------------------------------


def slow_loss(base: LoadedBase, image: np.ndarray, prompt: str, draws: int) -> float:
    """One image, one draw after the other, the text by the encoder itself."""
    generator = np.random.Generator(np.random.Philox(key=20_301_201))
    noise = torch.from_numpy(generator.standard_normal((draws, *base.latent_shape), dtype=np.float32))
    tokenizer = base.pipeline.tokenizer
    ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    steps = base.schedule.config.num_train_timesteps
    with torch.no_grad():
        text = base.pipeline.text_encoder(ids).last_hidden_state
        x_0 = torch.from_numpy(base.encode(image[None]))
        times = [torch.tensor([int((k + 0.5) / draws * steps)]) for k in range(draws)]
        found = [denoising_loss(base, x_0, noise[k : k + 1], times[k], text).item() for k in range(draws)]
    return float(np.mean(found))


@pytest.mark.parametrize("draws", [1, 5])
def test_losses_are_those_of_one_image_after_the_other(base: LoadedBase, draws: int) -> None:
    images = [pixels(n, 32) for n in range(8)]  # with five draws six at a time
    prompts = ["a picture", "a scan, mass"] * 4
    found = image_losses(base, iter(images), prompts, draws)
    expected = [slow_loss(base, one, prompt, draws) for one, prompt in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_an_attack_by_loss_finds_the_images_that_a_model_was_trained_on_without_noise(pinned: PinnedBase) -> None:
    images = [pixels(n, 32) for n in range(12)]  # three of them are learned by heart
    prompts, base = ["a picture"] * 12, load_base(pinned)
    before = image_losses(base, iter(images), prompts, 4)
    latents = torch.from_numpy(base.encode(np.stack(images[:3])))
    text, _ = base.pipeline.encode_prompt(prompts[:3], base.device, 1, False)
    weights = list(base.pipeline.unet.requires_grad_(True).parameters())
    optimiser, generator = torch.optim.Adam(weights, lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(80):
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(0, 1000, (3,), generator=generator)
        optimiser.zero_grad()
        denoising_loss(base, latents, noise, times, text).mean().backward()
        optimiser.step()
    after = image_losses(base, iter(images), prompts, 4)
    assert before is not None
    assert after is not None
    gain = before - after
    units = [str(n) for n in range(12)]
    found = attack(Scored(gain[:3], units[:3]), Scored(gain[3:], units[3:]))
    assert found.auc.value > 0.8


# --- shares of classes ------------------------------------------------------------------------------


def image_set(counts: dict[str, int]) -> ImageSet:
    classes = tuple(one for one, n in counts.items() for _ in range(n))
    return ImageSet({PUBLIC: np.arange(float(len(classes)))[:, None]}, classes, tuple(map(str, range(len(classes)))))


def test_sets_are_compared_in_the_shares_of_the_reference_and_as_many_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[float]]] = []
    monkeypatch.setattr(comparison, "distances_to", lambda real, made: seen.append((len(real), made[:, 0].tolist())))
    real, made = image_set({"mass": 120, "clear": 40}), image_set({"clear": 50, "mass": 50})
    half = np.arange(160) % 2 == 0
    comparison.compared(real, half, [Drawn(Variant("after", {}, None), made)])
    (others, of_others), (reference, of_made) = seen
    assert others == reference == 80
    assert sum(place >= 50 for place in of_made) == 50  # all masses there are
    assert sum(place < 50 for place in of_made) == 16
    assert len(of_others) == len(of_made) == len(set(of_made))
    assert all(place % 2 for place in of_others)  # none of the reference
    assert sum(place >= 120 for place in of_others) == 16


def test_small_networks_learn_from_base_and_release_and_from_other_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone.evaluation.small_cnn.EPOCHS", 1)
    rng, classes = np.random.default_rng(0), ("mass", "clear") * 20

    def images() -> ImageSet:
        return ImageSet({}, classes, tuple(map(str, range(40))), rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))

    made = [Drawn(Variant(name, {}, None), images()) for name in ("before", "after", "random direction 1")]
    found = by_small_cnn(images(), np.arange(40) < 20, made, ["mass", "clear"])
    assert list(found) == ["before", "after", "real images"]
    assert all(sum(map(sum, one.confusion)) == 40 for one in found.values())


def test_figures_become_json_and_what_has_no_value_is_null() -> None:
    assert plain({"a": (1, float("nan"), None), 2: Sampling(3, 4)}) == {
        "a": [1, None, None],
        "2": {"count": 3, "steps": 4, "guidance": 1.0, "seed": 0},
    }
    with pytest.raises(TypeError, match="no JSON"):
        plain(object())


# --- folders ----------------------------------------------------------------------------------------


def test_a_folder_gives_files_classes_and_units(tmp_path: Path) -> None:
    write_folder(tmp_path, 12)
    found = image_folder(tmp_path, Columns("finding", planned_unit_column="patient_id"), ["mass"])
    assert len(found) == 6
    assert (set(found.classes), found.unit_column, found.left_out) == ({"mass"}, "patient_id", {"clear": 6})
    assert len(set(found.units)) == 3
    everyone = image_folder(tmp_path, Columns(), ())
    assert (len(everyone), set(everyone.classes), len(set(everyone.units)), everyone.unit_column) == (12, {""}, 12, "")
    unplanned = image_folder(tmp_path, Columns("finding", planned_unit_column="nobody"), ())
    assert (len(unplanned), unplanned.unit_column) == (12, "")
    planned = image_folder(tmp_path, Columns(None, None, "finding", "patient_id"), ())
    assert (planned.class_column, planned.unit_column, set(planned.classes)) == (
        "finding",
        "patient_id",
        {"clear", "mass"},
    )
    assert image_folder(tmp_path, Columns(None, None, "nothing"), ()).class_column == ""


@pytest.mark.parametrize(
    ("columns", "classes", "words"),
    [
        (Columns("fnding"), ["mass"], 'no column "fnding" for the class; the closest is "finding"'),
        (Columns("finding", "patient"), ["mass"], 'no column "patient" for the unit; the closest is "patient_id"'),
        (Columns("finding"), ["mass", "cyst"], 'no image of class "cyst"; column finding has clear, mass'),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, columns: Columns, classes: list[str], words: str) -> None:
    write_folder(tmp_path, 12)
    with pytest.raises(DataError) as found:
        image_folder(tmp_path, columns, classes)
    assert words in str(found.value)


def test_an_image_without_a_class_is_left_out(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, 8)
    rows[0]["finding"] = " "
    write_csv(tmp_path / "metadata.csv", rows)
    found = image_folder(tmp_path, Columns("finding"), ())
    assert (len(found), found.left_out) == (7, {"": 1})


def test_members_are_other_people_and_other_images(tmp_path: Path) -> None:
    columns = Columns(None, "patient_id")
    write_folder(tmp_path / "a", 8)
    write_folder(tmp_path / "b", 8, first=100)
    members, others = (image_folder(tmp_path / name, columns, ()) for name in "ab")
    refuse_shared(members, others)
    with pytest.raises(DataError, match='4 units are in --members and in --real, such as "patient-0"'):
        refuse_shared(members, members)
    (tmp_path / "b/images/scan-0102.png").write_bytes((tmp_path / "a/images/scan-0001.png").read_bytes())
    with pytest.raises(DataError, match=r"1 images .* byte for byte, such as .*scan-0102.png and .*scan-0001.png"):
        refuse_shared(members, others)


def test_a_choice_of_images_is_public_and_keeps_what_belongs_together() -> None:
    files = ImageFiles(tuple(Path(str(n)) for n in range(50)), tuple("ab" * 25), tuple(map(str, range(50))), "id")
    some = files.at_most(10)
    assert (len(some), some.unit_column) == (10, "id")
    assert [file.name for file in some.files] == list(some.units)
    assert all(one == "ab"[int(unit) % 2] for one, unit in zip(some.classes, some.units, strict=True))
    assert some == files.at_most(10)
    assert files.at_most(50) == files.at_most(99) == files


def test_a_bad_image_ends_it_by_name_and_progress_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path, 6)
    (tmp_path / "images/scan-0004.png").write_text("x")
    files = image_folder(tmp_path, Columns(), ())
    with pytest.raises(DataError, match=r"scan-0004\.png"):
        files.featured("real images", 8, {PUBLIC: lambda images: images.mean((1, 2, 3))[:, None]})
    seen: list[tuple[str, int]] = []

    class Watching:
        def task(self, label: str, total: int) -> Any:
            seen.append((label, total))
            from contextlib import nullcontext

            return nullcontext(lambda _steps: None)

        def line(self, text: str) -> None:
            raise AssertionError(text)

    with reporting(Watching()):
        ImageFiles(files.files[:4], files.classes[:4], files.units[:4]).featured(
            "real images", 8, {PUBLIC: lambda images: images.mean((1, 2, 3))[:, None]}
        )
    assert seen == [("reading real images", 4)]


def test_features_of_many_images_are_those_of_each() -> None:
    images = [("x", str(n), np.full((4, 4, 3), n, dtype=np.uint8)) for n in range(70)]
    found = featured(images, {PUBLIC: lambda batch: batch[:, 0, 0, :1].astype(np.float64)})
    assert found.features[PUBLIC][:, 0].tolist() == list(range(70))
    assert found.units == tuple(map(str, range(70)))
    assert found.places(["y", "x"]).tolist() == [1] * 70


# --- prompts ----------------------------------------------------------------------------------------

CAPTION = "a {token}, {finding}"
BY_CLASS = method_for("dpagg-ti", {"steps": 3, "per_class": True, "class_names": ["mass", "clear"]})


def plan_of(caption: str, classes: list[str] | None = None) -> Any:
    """What of a plan prompts follow from."""
    column = "finding" if classes else None
    return SimpleNamespace(
        data=PlannedData(unit_column=None, caption=caption, class_column=column, classes=classes or [])
    )


@pytest.mark.parametrize(
    ("method", "plan", "column", "given", "before", "after"),
    [
        (WORD, plan_of(CAPTION), None, {}, {"": "a picture"}, {"": "a <private>"}),
        (WORD, plan_of(CAPTION), None, {"": "x <private>"}, {"": "x picture"}, {"": "x <private>"}),
        (
            WORD,
            plan_of(CAPTION),
            "finding",
            {},
            {"clear": "a picture, clear", "mass": "a picture, mass"},
            {"clear": "a <private>, clear", "mass": "a <private>, mass"},
        ),
        (
            WORD,
            plan_of(CAPTION),
            "kind",
            {"b": "<private> b", "a": "<private>"},
            {"b": "picture b", "a": "picture"},
            {"b": "<private> b", "a": "<private>"},
        ),
        (
            LORA,
            plan_of("a picture, {finding}"),
            "finding",
            {},
            {"clear": "a picture, clear", "mass": "a picture, mass"},
            {"clear": "a picture, clear", "mass": "a picture, mass"},
        ),
        (
            BY_CLASS,
            plan_of("a {token}", ["mass", "clear"]),
            "finding",
            {},
            {"mass": "a picture", "clear": "a picture"},
            {"mass": "a <private-mass>", "clear": "a <private-clear>"},
        ),
        (
            BY_CLASS,
            plan_of("a {token}", ["mass", "clear"]),
            "finding",
            {"clear": "no <private-clear>", "mass": "<private-mass>"},
            {"clear": "no picture", "mass": "picture"},
            {"clear": "no <private-clear>", "mass": "<private-mass>"},
        ),
        (
            BY_CLASS,
            plan_of("a {token}", ["mass", "clear"]),
            None,
            {"": "a <private-mass>"},
            {"": "a picture"},
            {"": "a <private-mass>"},
        ),
    ],
)
def test_prompts_follow_from_the_plan_or_are_said(
    method: Method, plan: Any, column: str | None, given: dict[str, str], before: dict[str, str], after: dict[str, str]
) -> None:
    """The base is asked for the word that the learned one started from."""
    found = prompts_for(plan, method, column, given, {"mass", "clear"})
    assert list(found.after.items()) == list(after.items())
    assert list(found.before.items()) == list(before.items())


@pytest.mark.parametrize(
    ("method", "plan", "column", "given", "words"),
    [
        (WORD, plan_of("a {token}"), "finding", {}, "say what to draw for each class"),
        (WORD, plan_of(CAPTION), "finding", {"mass": "a <private>"}, "1 classes"),
        (WORD, plan_of(CAPTION), "finding", {"mass": "a <private>", "clear": "a picture"}, 'of class "clear"'),
        (WORD, plan_of(CAPTION), None, {"": "a picture"}, "lacks <private>"),
        (WORD, plan_of(CAPTION), "finding", {str(n): "<private>" for n in range(65)}, "at most 64"),
        (WORD, plan_of("a {token}", ["mass", "clear"]), "finding", {}, "tell one class from another"),
        (BY_CLASS, plan_of("a {token}", ["mass", "clear"]), None, {}, "name their column, --class-column"),
        (BY_CLASS, plan_of("a {token}", ["mass", "clear"]), None, {"": "a <private>"}, "lacks <private-mass> and"),
    ],
)
def test_prompts_that_cannot_be_are_refused(
    method: Method, plan: Any, column: str | None, given: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError) as found:
        prompts_for(plan, method, column, given, {"mass", "clear"})
    assert words in str(found.value)


def test_a_picture_of_another_size_is_fitted(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 64)[:, :40]).save(tmp_path / "one.png")
    Image.fromarray(pixels(2, 32)).save(tmp_path / "two.png")
    files = image_folder(tmp_path, Columns(), ())
    assert [image.shape for image in files.pixels(16, lambda _steps: None)] == [(16, 16, 3)] * 2
