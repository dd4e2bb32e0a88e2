"""The hospital's program: reads private images, answers with clipped integers."""

from undertone_origin import let_waiting_threads_sleep, refuse_strangers

let_waiting_threads_sleep()
refuse_strangers()
