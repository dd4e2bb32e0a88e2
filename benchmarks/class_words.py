"""Two classes that differ a little: do their words differ by what they are of, or by chance? Public drawings alone.

    python benchmarks/class_words.py [--units 60] [--repeats 2] [--settings 30:0.2 120:0.05] [--json FILE]

The classes are drawn chests, and drawn chests with a pale patch in a lung. The same drawings are inverted several times
by `dpagg-ti` with a word for each class, each time with draws of noise and times of its own; a setting is
STEPS:LEARNING_RATE. Beside it one mean gradient of `dpsgd-ti` at the start, K = 2. For the mean over all units, and for
the difference of the two classes' means, the cosine between repeats says what is left once chance has changed: 1 is all
of it. Without noise and without a clip: nothing here is private.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from emulation import labelled_units
from numpy.typing import NDArray
from report import Row, parser, publish
from subjects import Subject, image, of_kind

from undertone.methods.protocol import Method
from undertone.methods.registry import method_for
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin
from undertone.public_images.phantoms import phantom

CLASSES = ["clear", "patch"]
CHESTS = Subject("chests", of_kind(phantom, "chest"), ("chest",))
SEED, SIZE, AT_ONCE = 7, 64, 60
Rows = NDArray[np.float64]


def drawings(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """So many chests of each class in turn [2 n, s, s, 3], and their classes [2 n]."""
    rng, places = np.random.Generator(np.random.Philox(key=SEED)), np.arange(2 * count) % 2
    chests = [image(CHESTS, SEED, number, SIZE) for number in range(2 * count)]
    return np.stack([patched(rng, one) if of else one for one, of in zip(chests, places, strict=True)]), places


def patched(rng: np.random.Generator, chest: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The chest with a pale, soft patch in one lung."""
    down, across = np.mgrid[:SIZE, :SIZE]
    y, x = rng.uniform(26, 44), rng.choice([rng.uniform(14, 24), rng.uniform(40, 50)])
    patch = np.exp(-(((down - y) / rng.uniform(5, 9)) ** 2) - ((across - x) / rng.uniform(4, 7)) ** 2)
    pale = chest + (235.0 - chest) * (0.6 * patch)[:, :, None]
    return np.uint8(np.clip(pale, 0, 255))


def methods(settings: list[str]) -> Iterator[tuple[str, Method]]:
    """Each setting of dpagg-ti, then dpsgd-ti."""
    words = {"per_class": True, "class_names": CLASSES}
    for setting in settings:
        steps, rate = setting.split(":")
        options = words | {"share_scale": 1.0, "min_time": 0.3, "steps": int(steps), "learning_rate": float(rate)}
        yield f"dpagg-ti, {steps} steps at {rate}", method_for("dpagg-ti", options)
    yield "dpsgd-ti, one gradient", method_for("dpsgd-ti", words | {"draws": 2, "min_time": 0.2})


def learned(base: LoadedBase, method: Method, count: int, repeat: int) -> Rows:
    """What each unit learned of its own class's word, [2 n, d]; `repeat` numbers the draws."""
    images, places = drawings(count)
    captions = [f"a {method.token}"] * 2
    units = labelled_units(base, images, places, captions, repeat)
    state = method.initial_state(base.pinned)[: method.dimension(base.pinned)]
    parts = [units[first : first + AT_ONCE] for first in range(0, len(units), AT_ONCE)]
    rows = np.concatenate([method.rows(base, state, part, lambda _: None) for part in parts]).astype(np.float64)
    words = rows[:, -state.size :].reshape(len(rows), 2, -1)  # shares stand before words
    return words[np.arange(len(rows)), places]


def told(name: str, repeats: list[Rows]) -> list[Row]:
    """How alike repeats are."""
    means = [rows.mean(0) for rows in repeats]
    differences = [rows[1::2].mean(0) - rows[::2].mean(0) for rows in repeats]
    spread = float(np.mean([np.sqrt(rows.var(0).sum()) for rows in repeats]))
    length = float(np.mean([np.linalg.norm(one) for one in means]))
    apart = float(np.mean([np.linalg.norm(one) for one in differences]))
    return [
        Row(name, "deviation of a row", spread, length, "length of the mean"),
        Row(name, "classes apart", apart, 2 * spread / len(repeats[0]) ** 0.5, "by chance alone"),
        Row(name, "cosine of repeats, mean", cosine(means), 1.0, "no chance"),
        Row(name, "cosine of repeats, classes", cosine(differences), 1.0, "no chance"),
    ]


def cosine(vectors: list[Rows]) -> float:
    """Mean over pairs."""
    pairs = combinations(vectors, 2)
    return float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))


def main() -> None:
    """Every setting, repeated."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--units", type=int, default=60, help="of each class")
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--settings", nargs="*", default=["30:0.2", "120:0.05"], metavar="STEPS:RATE")
    chosen = arguments.parse_args()
    base, rows = load_base(pin("embedded:tiny")), []
    for name, method in methods(chosen.settings):
        made = [learned(base, method, chosen.units, repeat) for repeat in range(1, chosen.repeats + 1)]
        rows += told(name, made)
    publish(f"two classes of {chosen.units} drawings each, {chosen.repeats} repeats", rows, chosen.json)


if __name__ == "__main__":
    main()
