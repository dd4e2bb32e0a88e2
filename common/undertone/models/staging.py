"""A private view of a base model for the loaders: the pinned files and nothing else.

Loaders decide by what they find: an index beside a single file, an adapter, a tokenizer's extra files, Python. In a
folder that holds the pinned files alone they find nothing that no plan names, whatever they look for. Half-precision
and sharded weights stand there under the plain names, so every base loads the same way.

What is guaranteed of a file that changes between hashing and loading: settings are copied from the very bytes that
have the pinned hash. Weights are linked, not copied, because they are large: they must be, before the loader starts and
after it has returned, the file of the same inode, length and times as when it was hashed. A file system that
lies about those is not found out.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from undertone.core.canonical import sha256_hex
from undertone.errors import ModelError, PlanChanged
from undertone.models.part_files import STEMS
from undertone.models.pinned import PinnedBase, stamp_of


@contextmanager
def staged(base: PinnedBase) -> Iterator[Path]:
    """A temporary folder of exactly the pinned files, removed afterwards.

    Raises:
        PlanChanged: a file is no longer the one that was hashed.
        ModelError: the folder cannot be made.
    """
    try:
        holder = tempfile.TemporaryDirectory(prefix="undertone-base-")
    except OSError as error:
        raise ModelError(f"no temporary folder can be made to load {base.reference} from: {error}") from None
    with holder as name:
        view = Path(name)
        for file in base.files:
            try:
                (view / file).parent.mkdir(exist_ok=True)
                _place(base, file, view / _plain(base, file))
            except OSError as error:
                raise ModelError(f"{file} of {base.reference} cannot be made ready to load: {error}") from None
        yield view
        for file in base.files:
            if file.endswith(".safetensors"):
                _check_unchanged(base, file)


def _place(base: PinnedBase, file: str, target: Path) -> None:
    source = base.folder / file
    if file.endswith(".safetensors"):
        _check_unchanged(base, file)
        target.symlink_to(source.resolve(strict=True))
        return
    data = source.read_bytes()
    if sha256_hex(data) != base.files[file]:
        raise _changed(base, file)
    target.write_bytes(data)


def _check_unchanged(base: PinnedBase, file: str) -> None:
    try:
        now = stamp_of(base.folder / file)
    except OSError:
        now = None
    if now is None or now != base.stamps.get(file):
        raise _changed(base, file)


def _changed(base: PinnedBase, file: str) -> PlanChanged:
    return PlanChanged(f"{file} of {base.reference} changed while it was being loaded; restore it and start again")


def _plain(base: PinnedBase, file: str) -> str:
    """The name without a precision: what a loader looks for first."""
    part, _, name = file.rpartition("/")
    weights = base.weights_of(part) if part in STEMS else None
    if weights is None:
        return file
    if name == weights.index:
        return f"{part}/{STEMS[part]}.safetensors.index.json"
    return f"{part}/{STEMS[part]}.safetensors" if (weights.index, weights.files) == (None, (name,)) else file
