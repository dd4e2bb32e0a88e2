"""The coordinator's program: the round loop, the gate and the release."""

from undertone_origin import refuse_strangers

refuse_strangers()
