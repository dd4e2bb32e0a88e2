"""What rows of public drawings say of a study's C, before anything is charged. Nothing of it enters the plan.

A C far above every row lets in noise and no signal: noise grows with C, rows do not. A C far below them shortens what a
one-shot method releases until nothing is left to see. A gradient method's C only sets the size of what its optimiser
scales, so nothing is refused there for a short C.
"""

from dataclasses import dataclass

from undertone.errors import FaintRelease, NoisyRelease
from undertone.study.public_rows import PublicRows, known_for_check, made_for_check
from undertone.study.resolve import Resolved

# Public drawings played as private ones (docs/benchmarks.md): at a quarter of the way samples have moved towards the
# data, at an eighth they are still the base's.
FAINTEST = 0.2


@dataclass(frozen=True)
class ClipCheck:
    """C beside the rows of public drawings; where `rows` is None, `unknown` says why and what would measure them.

    `reach` is how far the release can move over how far whole rows would move it (None: it does not follow from C);
    `noise_to_signal` is the plan's figure, for rows as long as the longest public one where that is below C.
    """

    clip: float
    rows: PublicRows | None
    unknown: str
    reach: float | None
    noise_to_signal: float

    @property
    def ratio(self) -> float | None:
        """C over the median public row."""
        return None if self.rows is None else self.clip / self.rows.median


def check_clip(found: Resolved, *, asked: bool = False) -> ClipCheck:
    """Hold a plan's C against rows of public drawings; they are made where that is quick, or `asked` for."""
    plan = found.plan
    clip, planned = plan.stages[-1].clip_norm, plan.privacy.noise_to_signal
    rows, unknown = (found.rows, "") if found.rows else _rows(found, asked)
    if rows is None:
        return ClipCheck(clip, None, unknown, None, planned)
    reach = found.method.reach(clip, rows.median)
    return ClipCheck(clip, rows, "", reach, planned * max(1.0, clip / rows.longest))


def refuse_clip(check: ClipCheck, *, allow_noisy: bool) -> None:
    """Stop before a release of noise, or one that nobody could tell from the base.

    Raises:
        NoisyRelease, FaintRelease: unless the study says `allow_noisy = true`.
    """
    rows = check.rows
    if rows is None or allow_noisy:
        return
    beside = (
        f"privacy.clip_norm = {check.clip:.4g} is {check.ratio:.3g} times the median length {rows.median:.4g} of rows "
        f"of {rows.drawings} public drawings"
    )
    instead = f'Say privacy.clip_norm = "auto", or about {rows.median:.2g}'
    if check.noise_to_signal > 1 and check.clip > rows.longest:
        raise NoisyRelease(
            f"{beside}, the longest of which is {rows.longest:.4g}: noise grows with C and rows do not, so the noise "
            f"would be {check.noise_to_signal:.1f} times the signal. {instead}; or say privacy.allow_noisy = true"
        )
    if check.reach is not None and check.reach < FAINTEST:
        raise FaintRelease(
            f"{beside}: the release could move {check.reach:.3g} times as far as such rows say, and below {FAINTEST:g} "
            f"samples hardly change. {instead}, or raise method.rescale; or say privacy.allow_noisy = true"
        )


def _rows(found: Resolved, asked: bool) -> tuple[PublicRows | None, str]:
    """The rows, or why there are none."""
    base, method, caption = found.base, found.method, found.plan.data.caption
    rows = known_for_check(base, method, caption)
    if rows is not None:
        return rows, ""
    from undertone.public_images.procedural import SMALLEST  # slow to import: only where drawings are made

    if base.image_size < SMALLEST:
        return None, f"unknown: images of {base.image_size} pixels are too small for public drawings"
    rows = made_for_check(base, method, caption, asked=asked)
    if rows is None:
        return None, (
            f"not measured: {method.few_drawings * method.passes} passes through a base of this size; once: undertone "
            "plan STUDY.toml --measure-rows"
        )
    return (rows, "") if rows.usable else (None, "unknown: rows of public drawings have no length on this base")
