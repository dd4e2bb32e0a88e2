"""The hospital's program: reads private images, answers with clipped integers."""

from undertone_origin import refuse_strangers

refuse_strangers()
