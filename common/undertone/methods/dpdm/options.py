"""The keys of [method] of dpdm."""

from pydantic import Field

from undertone.methods.denoiser.options import DenoiserOptions
from undertone.methods.gradient.options import GradientOptions


class DPDMOptions(DenoiserOptions, GradientOptions):
    """[method] keys of dpdm. largest_row_mib = 0: rows are summed as they are made, however short."""

    largest_row_mib: int = Field(default=0, ge=0, le=4096)
