"""Style in new content, DPAgg-TI's own claim: a word learned on images of one style, in prompts about other content.

    python benchmarks/style.py [--styles colours stripes cells] [--epsilon 1] [--images 16] [--json FILE]
                               [--sheet FOLDER]

230 units hold one image each of a style, none of which shows a thing that is asked for afterwards. Their inversions are
played in one process with the plan's C and noise (`emulation.py`); then the base draws each of five things with the
word, without it, and with random words of equal length. Style: KID of those samples to images of the style that no unit
has, by the public encoder, which names things, and by mean and deviation of each channel of the base's own autoencoder,
which sees colours and grain. Content: the share of samples that the encoder names as what was asked for.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from emulation import units_of
from numpy.typing import NDArray
from PIL import Image
from report import Row, machine, parser, publish
from subjects import SUBJECTS, Subject, images

from undertone.evaluation.encoder import kinds_of
from undertone.evaluation.kid import EncoderFeatures, PublicFeatures, kid
from undertone.methods.protocol import Method
from undertone.methods.weights import attach
from undertone.models.base import load_base
from undertone.models.pinned import PinnedBase, pin
from undertone.public_images.glyphs import handwritten_digit, sharp_glyph, soft_glyph
from undertone.public_images.palette import HUES, Pixels
from undertone.public_images.procedural import draw
from undertone.public_images.shapes import shape
from undertone.study.plan import Plan
from undertone.study.resolve import Resolved, resolved
from undertone.study.schema import Study

BASE = "embedded:tiny"
UNITS = {"north": 80, "east": 70, "south": 50, "west": 30}
CONTENTS = ("circle", "square", "star", "cross", "ring")
TRAINING, HELD_OUT, IDEAL, SEED, STEPS, RANDOM = 1, 2, 3, 5, 10, 2
TOKEN, BY_MEDIAN = "<style>", "word, C the median"
_AT_ONCE, _SHOWN, _TRIES = 60, 3, 10_000
Samples = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Style:
    """A look: how an image of it is drawn, and, where that is known, what a thing looks like in it.

    known: the base's own words for a thing in this look, "" where it has none.
    """

    subject: Subject
    ideal: Callable[[np.random.Generator, int, str], Pixels] | None = None
    known: str = ""


# --- styles -----------------------------------------------------------------------------------------------------------


def _two_tone(pixels: Pixels) -> Pixels:
    """Dark to light as purple to yellow, whatever the colours were."""
    grey = pixels.astype(np.float64).mean(2)
    level = (grey - grey.min()) / max(float(np.ptp(grey)), 1.0)
    if _ground(level) > 0.5:  # figures are light, grounds are dark
        level = 1 - level
    low, high = np.array(HUES["purple"]), np.array(HUES["yellow"])
    return np.uint8(np.clip(np.rint(low + level[:, :, None] * (high - low)), 0, 255))


def _ground(level: NDArray[np.float64]) -> float:
    """The level of the corners."""
    return float(np.median(level[[0, 0, -1, -1], [0, -1, 0, -1]]))


def _letters(rng: np.random.Generator, size: int) -> Pixels:
    """A letter or a digit, in purple and yellow."""
    drawer = (sharp_glyph, soft_glyph, handwritten_digit)[int(rng.integers(3))]
    return _two_tone(drawer(rng, size)[0])


def _thing(rng: np.random.Generator, size: int, content: str) -> Pixels:
    """One shape of a kind, in whatever colours."""
    for _ in range(_TRIES):
        pixels, words = shape(rng, size)
        if words.kind == content and words.number == 1 and "small" not in words.before:
            return pixels
    raise ValueError(f"no {content} in {_TRIES} drawings")


def _two_tone_thing(rng: np.random.Generator, size: int, content: str) -> Pixels:
    return _two_tone(_thing(rng, size, content))


def _striped_thing(rng: np.random.Generator, size: int, content: str) -> Pixels:
    """The figure of a shape cut out of stripes, on a plain ground."""
    grey = _thing(rng, size, content).astype(np.float64).mean(2)
    level = (grey - grey.min()) / max(float(np.ptp(grey)), 1.0)
    mask = (1 - level if _ground(level) > 0.5 else level)[:, :, None]
    stripes = SUBJECTS["stripes"].draw(rng, size).astype(np.float64)
    return np.uint8(np.rint(mask * stripes + (1 - mask) * rng.integers(0, 256, 3)))


STYLES = {
    "colours": Style(Subject("colours", _letters), _two_tone_thing, "a yellow {content} on purple"),
    "stripes": Style(SUBJECTS["stripes"], _striped_thing),
    "cells": Style(SUBJECTS["cells"]),
}


# --- a study of a style -----------------------------------------------------------------------------------------------


def planned(epsilon: float, caption: str, initial_word: str) -> Resolved:
    """The plan of 230 units at four sites, by auto."""
    tables: dict[str, Any] = {
        "study": {"name": "style"},
        "model": {"base": BASE},
        "method": {"name": "dpagg-ti", "token": TOKEN, "initial_word": initial_word},
        "privacy": {"unit": "record", "epsilon": epsilon, "delta": 1e-5},
        "data": {"caption": caption},
        "cohort": {"units": UNITS},
    }
    return resolved(Study.model_validate(tables))


def rows_of(method: Method, pinned: PinnedBase, plan: Plan, subject: Subject) -> NDArray[np.float32]:
    """Each unit's inversion less the start, [n, d]."""
    base, start = load_base(pinned), method.initial_state(pinned)
    pixels = images(subject, TRAINING, 0, sum(UNITS.values()), pinned.image_size)
    units = units_of(base.encode(pixels), plan.data.caption.replace("{token}", TOKEN), SEED)
    parts = [
        method.rows(base, start, units[at : at + _AT_ONCE], lambda _: None) for at in range(0, len(units), _AT_ONCE)
    ]
    return np.concatenate(parts)


def words_of(method: Method, pinned: PinnedBase, plan: Plan, rows: NDArray[np.float32]) -> dict[str, Any]:
    """The word by auto, with C at the median row, of whole rows without noise; and random ones as long as the second.

    The noise is the plan's, and grows with C.
    """
    start, stage = method.initial_state(pinned).astype(np.float64), plan.stages[-1]
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    noise = np.random.Generator(np.random.Philox(key=SEED)).standard_normal(start.size)
    found: dict[str, Any] = {}
    longest, median = float(lengths.max()), float(np.median(lengths))
    for name, clip, share in (
        ("word", stage.clip_norm, 1),
        (BY_MEDIAN, median, 1),
        ("whole rows, no noise", longest, 0),
    ):
        middle = (np.minimum(1, clip / np.maximum(lengths, 1e-30))[:, None] * rows).mean(0)
        deviation = share * clip * stage.sigma / stage.sensitivity.l2 / len(rows)
        found[name] = start + middle + deviation * noise
        noisy = deviation * start.size**0.5
        print(f"{name}: C {clip:.3g}, length of the mean row {np.linalg.norm(middle):.3g}, of the noise {noisy:.3g}")
    moved = np.linalg.norm(found[BY_MEDIAN] - start)
    for number in range(1, RANDOM + 1):
        way = np.random.Generator(np.random.Philox(key=number)).standard_normal(start.size)
        found[f"random word {number}"] = start + moved * way / np.linalg.norm(way)
    return {name: w.astype(np.float32) for name, w in found.items()}


# --- samples and scores -----------------------------------------------------------------------------------------------


def samples(pinned: PinnedBase, prompts: Sequence[str], count: int, weights: Any = None) -> NDArray[np.uint8]:  # noqa: ANN401
    """`count` images of each prompt, of the seeds 0 .. count - 1, [len(prompts) * count, h, w, 3]."""
    base = load_base(pinned)
    if weights is not None:
        attach(base, weights)
    asked = [prompt for prompt in prompts for _ in range(count)]
    drawn = base.sample(asked, list(range(count)) * len(prompts), steps=STEPS, guidance=1.0)
    return np.stack([np.asarray(one.convert("RGB")) for one in drawn])


def all_samples(
    style: Style, found: Resolved, words: dict[str, Any], prompt: str, count: int
) -> tuple[Samples, Samples]:
    """(samples of each thing by condition, samples of the word alone by condition)."""
    pinned, method, caption = found.base, found.method, found.plan.data.caption
    things = [prompt.replace("{content}", content) for content in CONTENTS]
    spelt: Any = method.options
    bare = [f"a {content}" for content in CONTENTS]
    made = {
        "no word": samples(pinned, bare, count),
        "initial word": samples(pinned, [one.replace("{token}", spelt.initial_word) for one in things], count),
    }
    alone = {"initial word": samples(pinned, [caption.replace("{token}", spelt.initial_word)], len(CONTENTS) * count)}
    for name, w in words.items():
        weights = method.weights(pinned, w)
        made[name] = samples(pinned, [one.replace("{token}", TOKEN) for one in things], count, weights)
        if not name.startswith("random"):
            alone[name] = samples(pinned, [caption.replace("{token}", TOKEN)], len(CONTENTS) * count, weights)
    if style.known:
        made["the base's own words"] = samples(pinned, [style.known.format(content=one) for one in CONTENTS], count)
    if style.ideal is not None:
        made["drawn so"] = np.stack(
            [
                style.ideal(np.random.Generator(np.random.Philox(key=IDEAL * 10_000 + 100 * at + one)), 64, content)
                for at, content in enumerate(CONTENTS)
                for one in range(count)
            ]
        )
    return made, alone


def named(pixels: NDArray[np.uint8], count: int) -> list[float]:
    """For each thing the share of its `count` samples that the encoder names so."""
    kinds = kinds_of(pixels)
    return [
        float(np.mean([kind == content for kind in kinds[at * count : (at + 1) * count]]))
        for at, content in enumerate(CONTENTS)
    ]


def sheet(file: Path, style: Style, made: Samples, count: int, size: int) -> None:
    """A row for the style's own images and one for each condition, three samples of each thing."""
    wide = _SHOWN * len(CONTENTS)
    rows = [images(style.subject, HELD_OUT, 0, wide, size)]
    chosen = [at * count + one for at in range(len(CONTENTS)) for one in range(_SHOWN)]
    rows += [pixels[chosen] for name, pixels in made.items() if name != "random word 2"]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(file)


@dataclass(frozen=True)
class Measures:
    """Features by which samples are near a style or far from it."""

    things: PublicFeatures
    grain: EncoderFeatures

    @classmethod
    def of_base(cls, pinned: PinnedBase) -> "Measures":
        """Standardised by public drawings."""
        drawn = np.stack([draw(7, index, pinned.image_size).pixels for index in range(512)])
        return cls(PublicFeatures.from_public(drawn), EncoderFeatures.from_public(load_base(pinned), drawn))

    def far(self, pixels: NDArray[np.uint8], held: NDArray[np.uint8]) -> tuple[float, float]:
        """KID by things and by grain."""
        return kid(self.things.of(pixels), self.things.of(held)), kid(self.grain.of(pixels), self.grain.of(held))


def run(name: str, found: Resolved, measures: Measures, prompt: str, count: int, folder: Path | None) -> list[Row]:
    """One style: its table, its sheet, its rows for JSON."""
    began, style, pinned = time.process_time(), STYLES[name], found.base
    print(f"\n{name}")
    words = words_of(found.method, pinned, found.plan, rows_of(found.method, pinned, found.plan, style.subject))
    held = images(style.subject, HELD_OUT, 0, 128, pinned.image_size)
    made, alone = all_samples(style, found, words, prompt, count)
    if folder is not None:
        sheet(folder / f"style-{name}.png", style, made, count, pinned.image_size)
    scored = {one: (*measures.far(pixels, held), named(pixels, count)) for one, pixels in made.items()}
    print(f"{time.process_time() - began:.0f} CPU seconds; rows of the sheet: the style, {', '.join(made)}\n")
    print("| | KID, things | KID, grain | named as asked | " + " | ".join(CONTENTS) + " |")
    print("|---" * (4 + len(CONTENTS)) + "|")
    rows, peer, (far, grain, asked) = [], "the same without a word", scored["no word"]
    for condition, (distance, other, shares) in scored.items():
        each = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {condition} | {distance:.2f} | {other:.3f} | {np.mean(shares):.2f} | {each} |", flush=True)
        rows.append(Row(f"{name}, {condition}", "KID, things", distance, far, peer))
        rows.append(Row(f"{name}, {condition}", "KID, grain", other, grain, peer))
        rows.append(Row(f"{name}, {condition}", "named as asked", mean(shares), mean(asked), peer))
    for condition, pixels in alone.items():
        distance, other = measures.far(pixels, held)
        print(f"| alone: {condition} | {distance:.2f} | {other:.3f} | - |" + " - |" * len(CONTENTS), flush=True)
        rows.append(Row(f"{name}, alone: {condition}", "KID, things", distance, far, "things without a word"))
        rows.append(Row(f"{name}, alone: {condition}", "KID, grain", other, grain, "things without a word"))
    return rows


def main() -> None:
    """Each style once."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--styles", nargs="+", default=list(STYLES), choices=list(STYLES))
    arguments.add_argument("--epsilon", type=float, default=1.0)
    arguments.add_argument("--images", type=int, default=16, help="samples of each thing")
    arguments.add_argument("--caption", default="a {token} picture", help="of the units' images")
    arguments.add_argument("--initial-word", default="picture")
    arguments.add_argument("--prompt", default="a {token} {content}")
    arguments.add_argument("--sheet", type=Path, help="one picture for each style in this folder")
    chosen = arguments.parse_args()
    found = planned(chosen.epsilon, chosen.caption, chosen.initial_word)
    measures, rows = Measures.of_base(pin(BASE)), list[Row]()
    for name in chosen.styles:
        rows += run(name, found, measures, chosen.prompt, chosen.images, chosen.sheet)
    print(f"\nepsilon {chosen.epsilon:g}, C {found.plan.stages[-1].clip_norm:.3g}, {machine()}")
    publish("style in new content", rows, chosen.json)


if __name__ == "__main__":
    main()
