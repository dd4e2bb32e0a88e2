"""The update: from a noised sum to the next public state. Post-processing: it costs nothing."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from undertone.methods.protocol import Method, NoiseAware, ShardedMethod
from undertone.models.interface import Base
from undertone.privacy.stages import NoisedSum
from undertone.study.plan import Plan


def update(
    method: Method,
    plan: Plan,
    round_: int,
    state: NDArray[np.float32],
    sent: NDArray[np.float32],
    noised: NoisedSum,
    base: Callable[[], Base],
) -> NDArray[np.float32]:
    """The next public state, step(w, V / (s p sum N_i)), with the public N_i of the sites in the sum (PRIVACY 6).

    `method` is the one of the round's stage, as are s and p. `sent` is what
    sites were sent: the state's head, or a query. `base` loads the base, where a step goes through it.

    Takes a `NoisedSum` and nothing else, so no private sum can reach a model.
    """
    denominator = plan.denominator(round_, noised.sites)
    mean = noised.values / denominator
    if isinstance(method, NoiseAware):
        return method.step_from(state, mean, plan.stage_of(round_).noise_in(len(noised.sites)) / denominator)
    if isinstance(method, ShardedMethod):
        return method.step_on(base(), state, sent, mean)
    return method.step(state, mean)
