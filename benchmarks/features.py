"""How well features tell kinds of image apart: the public encoder beside the autoencoder's latents and statistics.

    python benchmarks/features.py [--data FOLDER]

kNN accuracy (k = 5) of the kind of held-out drawn images; and for real images, how many of their five nearest drawn
neighbours are of the right kind. FOLDER is an imagefolder of chest X-rays (UNDERTONE_XRAY names it too).
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from report import Row, parser, publish
from sklearn.datasets import load_digits

from undertone.data.images import load_image
from undertone.data.plain_folder import IMAGE_SUFFIXES
from undertone.evaluation.kid import EncoderFeatures, PublicFeatures, nearest
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.public_images.procedural import draw

SIZE, NEIGHBOURS = 64, 5
KNOWN_SEED, FRESH_SEED, KNOWN, FRESH, REAL = 31, 32, 3000, 600, 300
Features = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def real_digits() -> NDArray[np.uint8]:
    """scikit-learn's scans of 8 x 8, enlarged, [n, 64, 64, 3]."""
    scans = torch.from_numpy(load_digits().images[:REAL] * 255 / 16)[:, None]
    large = torch.nn.functional.interpolate(scans, (SIZE, SIZE), mode="bicubic").clamp(0, 255)
    return large.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).round().byte().numpy()


def chest_xrays(folder: Path) -> NDArray[np.uint8]:
    """Real radiographs, [n, 64, 64, 3]."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)[:REAL]
    return np.stack([load_image(file, SIZE) for file in files])


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images [n, h, w, 3] at the size of the base."""
    if images.shape[1] == side:
        return images
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return small.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()


def agreement(x: NDArray[np.float64], kinds: list[str], known: NDArray[np.float64], known_kinds: list[str]) -> float:
    """Share of rows of x whose five nearest known rows vote for their kind."""
    found, _ = nearest(x, known, NEIGHBOURS)
    votes = [Counter(known_kinds[index] for index in row).most_common(1)[0][0] for row in found]
    return float(np.mean([vote == kind for vote, kind in zip(votes, kinds, strict=True)]))


def main() -> None:
    """Measure and tabulate."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    known = [draw(KNOWN_SEED, index, SIZE) for index in range(KNOWN)]
    fresh = [draw(FRESH_SEED, index, SIZE) for index in range(FRESH)]
    pixels = np.stack([image.pixels for image in known])
    base = load_base(pin("embedded:tiny"))
    public = PublicFeatures.from_public(pixels[:512])
    statistics = EncoderFeatures.from_public(base, resized(pixels[:512], base.image_size))

    def latents(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        small = resized(images, base.image_size)
        chunks = [base.encode(small[first : first + 64]) for first in range(0, len(small), 64)]
        return np.concatenate(chunks).reshape(len(images), -1).astype(np.float64)

    def of_stages(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return statistics.of(resized(images, base.image_size))

    cases = {"fresh drawn images": (np.stack([image.pixels for image in fresh]), [i.subject.kind for i in fresh])}
    digits = real_digits()
    cases["real digits"] = (digits, ["digit"] * len(digits))
    if chosen.data is not None:
        xrays = chest_xrays(Path(chosen.data))
        cases["real chest X-rays"] = (xrays, ["chest"] * len(xrays))
    peers: dict[str, Features] = {"VAE latents": latents, "VAE encoder statistics": of_stages}
    scores: dict[str, dict[str, float]] = {name: {} for name in ("public encoder", *peers)}
    for name, features in {"public encoder": public.of, **peers}.items():
        of_known = features(pixels)
        for case, (images, kinds) in cases.items():
            scores[name][case] = agreement(features(images), kinds, of_known, [i.subject.kind for i in known])
    rows = [
        Row(case, "kNN accuracy of kind", scores["public encoder"][case], scores[peer][case], peer)
        for case in cases
        for peer in peers
    ]
    publish("features", rows, chosen.json)


if __name__ == "__main__":
    main()
