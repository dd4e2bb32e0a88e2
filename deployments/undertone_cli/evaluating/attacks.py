"""Membership inference on a release: by loss and by the nearest generated image, each beside its baselines.

The baselines are what the same attack finds where there is nothing to find: the base without adaptation, which was
trained on none of the images, and held-out images against held-out images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.evaluation.classifier import halves
from undertone.evaluation.kid import nearest
from undertone.evaluation.membership import Attack, Scored, attack
from undertone.models.interface import OwnDrawer
from undertone.models.pinned import PinnedBase
from undertone_cli.evaluating.images import PUBLIC, Features, ImageFiles, ImageSet
from undertone_cli.evaluating.losses import image_losses
from undertone_cli.evaluating.tables import BASE, RELEASE
from undertone_cli.evaluating.variants import Variant, loaded

LOSS, CALIBRATED, NEAREST = "loss", "loss less base's", "nearest drawn"
NULL = "held-out halves"
_Numbers = NDArray[np.float64]
_Sides = tuple[ImageFiles, ImageFiles]


@dataclass(frozen=True)
class Drawn:
    """A variant and what it drew."""

    variant: Variant
    images: ImageSet


def attacks(
    members: ImageFiles,
    others: ImageFiles,
    drawn: tuple[Drawn, Drawn],
    pinned: PinnedBase,
    device: str,
    encoder: Features,
    draws: int,
) -> dict[str, dict[str, Attack]]:
    """Attack -> what it was tried on -> how well it told members from others.

    A release that draws without a denoiser has no losses, and is attacked by what it draws alone: the base's losses
    would say nothing of it. Where it has a loss of its own, the two models' mean losses are made equal before one is
    subtracted from the other.

    Args:
        members: images that were trained on.
        others: images of equal kind that were not; of one unit alone they cannot be held against themselves.
        drawn: the base without adaptation, and the release.
        pinned: the base's files.
        device: a torch device.
        encoder: the public encoder's features.
        draws: see `image_losses`.
    """
    sides = (members, others)
    scores = {NEAREST: _distances(sides, drawn, pinned, encoder)}
    after, own = _losses(sides, drawn[1].variant, pinned, device, draws)
    before, _ = _losses(sides, drawn[0].variant, pinned, device, draws) if after else ([], False)
    if after:
        scores = {LOSS: {BASE: before, RELEASE: after}, **scores}
    found: dict[str, dict[str, Attack]] = {}
    several = len(set(others.units)) > 1
    half = halves(others.units, np.zeros(len(others), dtype=np.int64)) if several else None
    for name, by_variant in scores.items():
        found[name] = {variant: _attack(-one, -other, sides) for variant, (one, other) in by_variant.items()}
        if half is not None:
            found[name][NULL] = _within(-by_variant[RELEASE][1], others, half)
    if not after:
        return found
    scale = np.concatenate(after).mean() / np.concatenate(before).mean() if own else 1.0
    gains = [scale * one - other for one, other in zip(before, after, strict=True)]
    found[CALIBRATED] = {RELEASE: _attack(gains[0], gains[1], sides)}
    if half is not None:
        found[CALIBRATED][NULL] = _within(gains[1], others, half)
    return found


def _losses(
    sides: _Sides, variant: Variant, pinned: PinnedBase, device: str, draws: int
) -> tuple[list[_Numbers], bool]:
    """Of each side's images, [n], under one model, empty where it has none; and whether they are losses of its own."""
    base, found = loaded(pinned, device, variant.weights), list[_Numbers]()
    with reporter().task(f"losses {variant.name}", sum(map(len, sides))) as progress:
        for side in sides:
            prompts = [variant.prompts[one] for one in side.classes]
            losses = image_losses(base, side.pixels(pinned.image_size, progress), prompts, draws)
            if losses is None:
                return [], True
            found.append(losses)
    return found, isinstance(base.drawer, OwnDrawer)


def _distances(
    sides: _Sides, drawn: tuple[Drawn, Drawn], pinned: PinnedBase, encoder: Features
) -> dict[str, list[_Numbers]]:
    seen = [side.featured("for neighbours", pinned.image_size, {PUBLIC: encoder}).features[PUBLIC] for side in sides]
    return {
        one.variant.name: [nearest(features, one.images.features[PUBLIC])[1][:, 0] for features in seen]
        for one in drawn
    }


def _attack(members: _Numbers, others: _Numbers, sides: _Sides) -> Attack:
    return attack(Scored(members, sides[0].units), Scored(others, sides[1].units))


def _within(scores: _Numbers, others: ImageFiles, half: NDArray[np.bool_]) -> Attack:
    """The same attack where neither side was trained on."""
    whole = Scored(scores, others.units)
    return attack(whole.part(half), whole.part(~half))
