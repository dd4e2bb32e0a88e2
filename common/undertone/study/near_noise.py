"""About how much noise a claim needs, from what is known nearby: for tables. No plan has a noise from here.

An epsilon by RDP takes a fiftieth of a second and one by PLD up to two, so only RDP is asked. Epsilon over noise is
nearly a power law: the next place to look follows from the last two, and three to five looks are enough.
"""

import math
from collections.abc import Sequence

from undertone.errors import StudyError
from undertone.privacy.accounting import Event, GaussianEvent, epsilon_rdp

_UNIT = 1 << 20  # grid units of Delta: z as the quotient of two integers, as events hold it
_NEAR, _LOOKS = 1e-4, 20
_STEEPEST, _FLATTEST = -4.0, -0.5  # of ln epsilon over ln z


def noise_near(
    epsilon: float, delta: float, sampling_rate: float, rounds: int, *, near: float, beside: Sequence[Event] = ()
) -> float:
    """The noise multiplier z with which `rounds` charges, and those `beside` them, come to `epsilon` by RDP.

    Args:
        epsilon: by RDP; met within 1e-4 of itself, from either side.
        delta: of the claim.
        sampling_rate: p.
        rounds: how many charges.
        near: where to look first.
        beside: charges whose noise is settled.

    Raises:
        StudyError: no noise comes to it.
    """

    def over(z: float) -> float:
        event = GaussianEvent(max(1, round(z * _UNIT)), _UNIT, sampling_rate, rounds)
        return math.log(max(epsilon_rdp((*beside, event), delta), 1e-300) / epsilon)

    z, slope = near, -1.0
    here = over(z)
    for _ in range(_LOOKS):
        if abs(here) <= _NEAR:
            return z
        following = z * math.exp(max(-2.0, min(2.0, -here / slope)))
        there = over(following)
        slope = max(_STEEPEST, min(_FLATTEST, (there - here) / math.log(following / z)))
        z, here = following, there
    raise StudyError(
        f"no noise brings {rounds} rounds to epsilon {epsilon:.3g} by RDP: the accountant does not reach it"
    )
