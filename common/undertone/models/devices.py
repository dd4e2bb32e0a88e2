"""Devices and precision: which there are, which a setting names, and how their memory ends.

A fact of the machine, never of the plan. `auto` takes the best device there is; what a person names by hand must
be there, or it is an error: nothing falls back in silence.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from undertone.errors import ModelError

Device = str | Sequence[str]
Dtype = Literal["float32", "bfloat16", "float16"]
AUTO, CPU = "auto", "cpu"

# What torch and its allocators write where the exception's type is a plain RuntimeError.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def present() -> tuple[str, ...]:
    """The devices torch can use here, the best first; the CPU is always the last.

    The seam of the tests: they put devices here that this machine lacks.
    """
    import torch  # heavy: only where a device is looked for

    cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return (*cards, *apple, CPU)


def choose(wanted: Device = AUTO) -> tuple[str, ...]:
    """The devices a setting stands for: one for `auto` or a name, as many as it lists for a list.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:0", "mps", or a list of such names, each once.

    Raises:
        ModelError: one of them is not there, or is listed twice; the message says which there are.
    """
    if wanted == CPU:
        return (CPU,)
    there = present()
    if wanted == AUTO:
        return (there[0],)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    found = tuple("cuda:0" if name == "cuda" else name for name in names)
    for name in found:
        if name not in there:
            raise ModelError(f'device "{name}" is not there; this machine has {", ".join(there)}, or say "auto"')
    if not found or len(set(found)) < len(found):
        raise ModelError(f"device = {names} must name at least one device, and each once")
    return found


def check_dtype(device: str, dtype: Dtype) -> None:
    """Refuse a precision that the device cannot compute in.

    Raises:
        ModelError: says what would work.
    """
    if dtype == "float32":
        return
    import torch  # heavy: only for half precision

    old_card = device.startswith("cuda") and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(False)
    if old_card or not torch.amp.is_autocast_available(torch.device(device).type):
        other = '"float16" or "float32"' if old_card else '"float32"'
        raise ModelError(f"{device} does not compute in {dtype}; say dtype = {other} in node.toml")


def precision(device: str, dtype: Dtype) -> AbstractContextManager[object]:
    """Within, matrix products and convolutions run in `dtype`, sums and norms in float32 (torch's autocast).

    Parameters that are trained, and rows, stay float32 whatever the setting.
    """
    if dtype == "float32":
        return nullcontext()
    import torch  # heavy: only for half precision

    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    return torch.autocast(torch.device(device).type, dtype=half)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so in a RuntimeError's text alone on CPUs."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _NO_MEMORY)


def free_memory(device: str) -> None:
    """Give back what torch's allocator keeps for later, so that the next try starts from all there is."""
    if device != CPU:
        import torch  # heavy: only beside a graphics card

        accelerator = torch.cuda if device.startswith("cuda") else torch.mps
        accelerator.empty_cache()
