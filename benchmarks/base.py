"""The embedded base: what its autoencoder keeps, whether samples show what the prompt says, whether greys are grey.

    python benchmarks/base.py [--data FOLDER] [--grid FILE] [--base embedded:tiny] [--judge WEIGHTS]

FOLDER is an imagefolder of chest X-rays (UNDERTONE_XRAY names it too); FILE gets eight prompts times eight seeds.
The public encoder names the samples. A base that was aligned with it may please it alone: WEIGHTS is a second judge,
which training never saw (`python -m undertone.pretraining.encoder --seed 77 --out WEIGHTS`).
Exit 1 where fewer than 80 % of samples are recognised as what was prompted, by either judge.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from features import chest_xrays, real_digits, resized
from numpy.typing import NDArray
from report import Row, parser, publish

from undertone.evaluation.encoder import SIDE, FeatureEncoder, feature_encoder, kinds_of, load_encoder
from undertone.models.base import LoadedBase, load_base
from undertone.models.grid import save_grid
from undertone.models.pinned import pin
from undertone.public_images.procedural import KINDS, PublicImage, draw
from undertone.public_images.wording import PLURAL_KINDS, with_article

# The base that shipped before, at 32 x 32 pixels and a quarter of the compression (docs/benchmarks.md).
EARLIER_DIGITS, EARLIER_XRAYS = 33.7, 28.2
PROMPTS = (
    "a picture of a handwritten white digit three on black",
    "a picture of a soft white digit eight on black",
    "a picture of a black letter a on white",
    "a picture of a large red circle on white",
    "a picture of three blue squares on yellow",
    "a picture of a small white star on black at the left",
    "a picture of a chest x-ray",
    "a picture of a bright phantom of a head",
)
SEEDS, STEPS, GUIDANCE, WANTED = 8, 20, 4.0, 0.8


def psnr(base: LoadedBase, images: NDArray[np.uint8]) -> float:
    """Mean PSNR of encoding and decoding, dB."""
    values: list[float] = []
    for start in range(0, len(images), 32):
        x = torch.from_numpy(images[start : start + 32]).permute(0, 3, 1, 2).float() / 127.5 - 1
        z = torch.from_numpy(base.encode(images[start : start + 32]))
        with torch.no_grad():
            y = base.pipeline.vae.decode(z).sample.clamp(-1, 1)
        values += (-10 * ((x - y) / 2).square().mean(dim=(1, 2, 3)).log10()).tolist()
    return float(np.mean(values))


def sampled(base: LoadedBase, prompt: str, count: int) -> NDArray[np.uint8]:
    """Samples of one prompt, [count, h, w, 3]."""
    images = base.sample([prompt] * count, list(range(count)), steps=STEPS, guidance=GUIDANCE)
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def kind_prompt(kind: str) -> str:
    """The prompt that names a kind and nothing else."""
    return f"a picture of {kind if kind in PLURAL_KINDS else with_article(kind)}"


def reconstruction(base: LoadedBase, data: Path | None) -> list[Row]:
    """PSNR on real and on drawn images."""
    drawn = np.stack([draw(2026, index, base.image_size).pixels for index in range(300)])
    rows = [
        Row(
            "scikit-learn digits",
            "PSNR, dB",
            psnr(base, resized(real_digits(), base.image_size)),
            EARLIER_DIGITS,
            "32 x 32 base",
        ),
        Row("fresh drawn images", "PSNR, dB", psnr(base, drawn), float("nan"), "none"),
    ]
    if data is not None:
        rows.append(
            Row(
                "chest X-rays",
                "PSNR, dB",
                psnr(base, resized(chest_xrays(data), base.image_size)),
                EARLIER_XRAYS,
                "32 x 32 base",
            )
        )
    return rows


def recognition(
    samples: dict[str, NDArray[np.uint8]], fresh: list[PublicImage], judge: FeatureEncoder, measure: str
) -> list[Row]:
    """What share of each kind's samples the judge names by that kind, and of all kinds in the last row."""
    named = kinds_of(np.stack([image.pixels for image in fresh]), judge)
    ceiling = float(np.mean([kind == image.subject.kind for kind, image in zip(named, fresh, strict=True)]))
    right = {kind: float(np.mean([found == kind for found in kinds_of(x, judge)])) for kind, x in samples.items()}
    rows = [Row(kind_prompt(kind), measure, share, ceiling, "fresh drawn images") for kind, share in right.items()]
    return [*rows, Row("all kinds", measure, float(np.mean(list(right.values()))), WANTED, "wanted")]


def main() -> None:
    """Measure, tabulate, draw."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    arguments.add_argument("--grid", type=Path, help="where to draw eight prompts times eight seeds")
    arguments.add_argument("--base", default="embedded:tiny")
    arguments.add_argument("--judge", type=Path, help="weights of a second encoder")
    arguments.add_argument("--samples", type=int, default=12, help="of each kind")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    base = load_base(pin(chosen.base))
    rows = reconstruction(base, None if chosen.data is None else Path(chosen.data))
    judges = {"recognised": feature_encoder()}
    if chosen.judge is not None:
        judges["by the second judge"] = load_encoder(chosen.judge)
    samples = {kind: sampled(base, kind_prompt(kind), chosen.samples) for kind in KINDS}
    fresh = [draw(2027, index, SIDE) for index in range(600)]
    verdicts = [recognition(samples, fresh, judge, measure) for measure, judge in judges.items()]
    shares = [verdict[-1].ours for verdict in verdicts]
    rows += [row for verdict in verdicts for row in verdict]
    greys = np.concatenate([sampled(base, prompt, SEEDS) for prompt in (PROMPTS[0], PROMPTS[6])]).astype(float)
    rows.append(Row("grey prompts", "tint, levels of 256", float(np.ptp(greys, axis=-1).mean()), 12.0, "limit"))
    if chosen.grid is not None:
        save_grid(
            chosen.grid,
            {p: base.sample([p] * SEEDS, list(range(SEEDS)), steps=STEPS, guidance=GUIDANCE) for p in PROMPTS},
        )
    publish("the embedded base", rows, chosen.json)
    if min(shares) < WANTED:
        sys.exit(f"only {min(shares):.0%} of samples are recognised as what was prompted")


if __name__ == "__main__":
    main()
