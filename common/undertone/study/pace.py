"""How long one pass through a base takes on this machine: measured while public rows were made here, else estimated.

A plan measures nothing for it. Whenever rows of public drawings are made for C, their time is kept beside them; a
machine that never made any is told by the base's files, as one core of a CPU would take.
"""

import platform
from dataclasses import dataclass

from undertone.core.canonical import Json
from undertone.core.code_digest import package_sha256
from undertone.core.public_cache import keep, kept
from undertone.methods.protocol import Method
from undertone.models.pinned import PinnedBase

_SHELF = "public-pace"
# Bytes of the UNet's weights x positions of a latent that one core passes in a second: 5e12 take about a minute.
_PER_SECOND = 8e10


@dataclass(frozen=True)
class Pace:
    """Seconds of one pass forward and backward, and where the figure is from, in words."""

    seconds: float
    origin: str


def keep_pace(base: PinnedBase, method: Method, count: int, seconds: float, device: str) -> None:
    """Keep what `count` public rows took; a figure that cannot be kept is estimated next time.

    The first stays: two plans of a study print the same, though the second had to make its rows again.
    """
    passes = count * method.passes
    if seconds > 0 and passes > 0 and _measured(base, method) is None:
        keep(_SHELF, _key(base, method), {"seconds": seconds / passes, "drawings": count, "device": device})


def pace(base: PinnedBase, method: Method) -> Pace:
    """What this machine was seen to take for this method on this base, else an estimate."""
    estimate = Pace(pass_size(base) / _PER_SECOND, "estimated from the base's files, for one core of a CPU")
    return _measured(base, method) or estimate


def _measured(base: PinnedBase, method: Method) -> Pace | None:
    found = kept(_SHELF, _key(base, method))
    if not isinstance(found, dict) or set(found) != {"seconds", "drawings", "device"}:
        return None
    seconds, drawings, device = found["seconds"], found["drawings"], found["device"]
    if not (isinstance(seconds, float) and 0 < seconds < float("inf") and isinstance(drawings, int)):
        return None
    return Pace(seconds, f"measured here on {drawings} public drawings ({device})")


def pass_size(base: PinnedBase) -> float:
    """Bytes of the UNet's weights times positions of a latent: what one pass costs, whatever the machine."""
    weights = sum(base.stamps[f"unet/{file}"][2] for file in base.weights_of("unet").files)
    return float(weights * int(base.config("unet")["sample_size"]) ** 2)


def _key(base: PinnedBase, method: Method) -> Json:
    """All that a pass follows from, on this machine: a cache may lie where several see it."""
    return {
        "code": package_sha256(),
        "base": dict(base.files),
        "method": method.name,
        "machine": [platform.node(), platform.machine()],
    }
