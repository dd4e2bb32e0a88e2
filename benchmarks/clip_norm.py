"""What a clip norm far from the rows' length does to dpagg-ti: public drawings played as a private set.

python benchmarks/clip_norm.py [--units 420] [--images 128] [--draws 3]

Rows are made once for each set. For each C the released mean is made from clipped rows and the noise of that plan
(epsilon 4), and images of the same seeds are drawn before and after. Nothing private is read.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from report import machine, parser
from undertone.methods.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models.adapted import attach

from undertone.evaluation.kid import PublicFeatures, kid
from undertone.methods.protocol import UnitRecords
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin
from undertone.public_images.glyphs import handwritten_digit
from undertone.public_images.palette import Pixels
from undertone.public_images.phantoms import phantom
from undertone.public_images.procedural import draw
from undertone.public_images.wording import Subject
from undertone.study.plan import Plan
from undertone.study.public_rows import rows_for_c
from undertone.study.resolve import resolve
from undertone.study.schema import Study

BASE, SEED, STEPS, EPSILON = "embedded:tiny", 31, 15, 4.0
RATIOS = (64.0, 16.0, 4.0, 2.0, 1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
Drawer = Callable[[np.random.Generator, int], tuple[Pixels, Subject]]
SETS: dict[str, Drawer] = {"handwritten digits": handwritten_digit, "phantoms": phantom}
METHOD = DPAggTI(DPAggTIOptions())
PINNED = pin(BASE)


def pictures(drawer: Drawer, first: int, count: int) -> NDArray[np.uint8]:
    """Drawings [count, size, size, 3] of one kind, of a series that sets no C."""
    keys = [np.array([SEED, index], dtype=np.uint64) for index in range(first, first + count)]
    return np.stack([drawer(np.random.Generator(np.random.Philox(key=key)), PINNED.image_size)[0] for key in keys])


def inverted(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A row for each drawing, each its own unit, [n, d]."""
    base, rows = load_base(PINNED), []
    for start in range(0, len(images), 60):
        latents = base.encode(images[start : start + 60])
        units = [
            UnitRecords(latents[i : i + 1], ("a <private>",), np.random.Generator(np.random.Philox(key=start + i)))
            for i in range(len(latents))
        ]
        rows.append(METHOD.rows(base, METHOD.initial_state(PINNED), units, lambda _: None))
    return np.concatenate(rows).astype(np.float64)


def planned(clip: float, units: int) -> Plan:
    """The plan of such a study."""
    third = units // 3
    tables = {
        "study": {"name": "clip-norm"},
        "model": {"base": BASE},
        "method": {"name": METHOD.name},
        "privacy": {"unit": "record", "epsilon": EPSILON, "delta": 1e-5, "clip_norm": clip, "allow_noisy": True},
        "data": {"caption": "a {token}"},
        "cohort": {"units": {"north": third, "east": third, "south": units - 2 * third}},
    }
    return resolve(Study.model_validate(tables))


def sampled(prompt: str, w: NDArray[np.float32] | None, count: int) -> NDArray[np.uint8]:
    """Images of the seeds 0 .. count - 1, [count, size, size, 3]."""
    base: LoadedBase = load_base(PINNED)
    if w is not None:
        attach(base, METHOD.weights(PINNED, w))
    images = base.sample([prompt] * count, list(range(count)), steps=STEPS, guidance=1.0)
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def main() -> None:
    """Measure and print one table for each set."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--units", type=int, default=420)
    arguments.add_argument("--images", type=int, default=128)
    arguments.add_argument("--draws", type=int, default=3)
    chosen = arguments.parse_args()
    median = rows_for_c(PINNED, METHOD, "a {token}").median
    features = PublicFeatures.from_public(np.stack([draw(7, i, PINNED.image_size).pixels for i in range(512)]))
    print(f"{machine()}\nmedian public row {median:.4g}")
    before_prompt, after_prompt = METHOD.sample_prompts("a {token}")
    before = sampled(before_prompt, None, chosen.images)
    for name, drawer in SETS.items():
        rows = inverted(pictures(drawer, 0, chosen.units))
        held = features.of(pictures(drawer, 10**6, chosen.images))
        lengths = np.linalg.norm(rows, axis=1)
        floor = kid(features.of(pictures(drawer, 0, chosen.units)), held)
        print(f"\n{name}: rows of median length {np.median(lengths):.4g}; KID before ", end="")
        print(f"{kid(features.of(before), held):.3f}, of the training drawings {floor:.3f}")
        print("| C / median | planned noise-to-signal | signal | noise | KID after | pixels changed, mean of 255 |")
        print("|---|---|---|---|---|---|", flush=True)
        for ratio in RATIOS:
            plan = planned(ratio * median, chosen.units)
            stage = plan.stages[-1]
            clip = stage.clip_norm
            mean = (rows * np.minimum(1, clip / lengths)[:, None]).mean(0)
            deviation = stage.sigma / (stage.grid.scale * chosen.units)
            kids, changes = [], []
            for number in range(chosen.draws):
                noise = np.random.Generator(np.random.Philox(key=number)).normal(0, deviation, mean.size)
                after = sampled(after_prompt, METHOD.step(METHOD.initial_state(PINNED), mean + noise), chosen.images)
                kids.append(kid(features.of(after), held))
                changes.append(np.abs(after.astype(float) - before).mean())
            print(
                f"| {ratio:g} | {plan.privacy.noise_to_signal:.2f} | {np.linalg.norm(mean):.3f} "
                f"| {deviation * np.sqrt(mean.size):.3f} | {np.mean(kids):.3f} ({min(kids):.3f} to {max(kids):.3f}) "
                f"| {np.mean(changes):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
