"""Which extra of the distribution brings which library, and what is said where one is not installed: in this one place.

The base installation carries messages (`undertone node relay`, `undertone node start`); whatever computes needs more.
"""

from undertone.errors import NotInstalled

_NODE = (
    "PIL",
    "accelerate",
    "diffusers",
    "dp_accounting",
    "huggingface_hub",
    "peft",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
EXTRAS = dict.fromkeys(_NODE, "node") | {
    "matplotlib": "coordinator",
    "psutil": "coordinator",
    "tensorboard": "coordinator",
    "sklearn": "evaluate",
    "torchmetrics": "evaluate",
    "ray": "ray",
}
# A site's commands. All others are a coordinator's, whose extra holds the other two; the demo's holds all.
_SITE = {"node": "node", "log": "node", "evaluate": "evaluate"}


def not_installed(command: str, library: str) -> NotInstalled | None:
    """What to say where a library is not there; None for one that no extra brings.

    Args:
        command: what was asked for, its first word behind `undertone` first.
        library: the name that Python did not find, with or without its parts.
    """
    library, first = library.partition(".")[0], command.partition(" ")[0]
    extra = EXTRAS.get(library)
    if extra is None:
        return None
    if extra in ("node", "evaluate"):
        extra = "demo" if first == "demo" else _SITE.get(first, "coordinator")
    return NotInstalled(
        f"`undertone {command}` needs {library}, which is not installed here: in your clone, pip install -c "
        f'constraints.txt ".[{extra}]"; of a wheel, its file name with [{extra}] behind it'
    )
