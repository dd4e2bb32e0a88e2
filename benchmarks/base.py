"""The embedded base: what its autoencoder keeps, whether samples show what the prompt says, whether greys are grey.

    python benchmarks/base.py [--data FOLDER] [--grid FILE] [--base embedded:tiny]

FOLDER is an imagefolder of chest X-rays (UNDERTONE_XRAY names it too); FILE gets eight prompts times eight seeds.
Exit 1 where fewer than 80 % of samples are recognised as what was prompted.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from features import chest_xrays, real_digits, resized
from numpy.typing import NDArray
from report import Row, parser, publish

from undertone.models.base import LoadedBase, load_base
from undertone.models.features import kinds_of
from undertone.models.grid import save_grid
from undertone.models.pinned import pin
from undertone.pretraining.procedural import KINDS, PublicImage, draw
from undertone.pretraining.wording import PLURAL_KINDS, with_article

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
SEEDS, STEPS, GUIDANCE, WANTED = 8, 20, 2.0, 0.8


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


def main() -> None:
    """Measure, tabulate, draw."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    arguments.add_argument("--grid", type=Path, help="where to draw eight prompts times eight seeds")
    arguments.add_argument("--base", default="embedded:tiny")
    arguments.add_argument("--samples", type=int, default=12, help="of each kind")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    base = load_base(pin(chosen.base))
    rows = reconstruction(base, None if chosen.data is None else Path(chosen.data))
    fresh = [draw(2027, index, base.image_size) for index in range(600)]
    ceiling = np.mean([kind == i.subject.kind for kind, i in zip(kinds_of(_pixels(fresh)), fresh, strict=True)])
    right: list[float] = []
    for kind in KINDS:
        images = sampled(base, kind_prompt(kind), chosen.samples)
        right.append(float(np.mean([found == kind for found in kinds_of(images)])))
        rows.append(Row(kind_prompt(kind), "recognised", right[-1], float(ceiling), "fresh drawn images"))
    rows.append(Row("all kinds", "recognised", float(np.mean(right)), WANTED, "wanted"))
    greys = np.concatenate([sampled(base, prompt, SEEDS) for prompt in (PROMPTS[0], PROMPTS[6])]).astype(float)
    rows.append(Row("grey prompts", "tint, levels of 256", float(np.ptp(greys, axis=-1).mean()), 12.0, "limit"))
    if chosen.grid is not None:
        save_grid(
            chosen.grid,
            {p: base.sample([p] * SEEDS, list(range(SEEDS)), steps=STEPS, guidance=GUIDANCE) for p in PROMPTS},
        )
    publish("the embedded base", rows, chosen.json)
    if np.mean(right) < WANTED:
        sys.exit(f"only {np.mean(right):.0%} of samples are recognised as what was prompted")


def _pixels(images: list[PublicImage]) -> NDArray[np.uint8]:
    return np.stack([image.pixels for image in images])


if __name__ == "__main__":
    main()
