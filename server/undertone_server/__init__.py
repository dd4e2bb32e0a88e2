"""The coordinator's program: the round loop, the gate and the release."""

from undertone_origin import let_waiting_threads_sleep, refuse_strangers

let_waiting_threads_sleep()
refuse_strangers()
