"""The dry run of `node check --device-memory` with each genuine method on the embedded base."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.gradient_studies import TOLD_CLASSES
from undertone.errors import ModelError
from undertone.methods.prototypes import kept_latents
from undertone.methods.registry import METHODS, method_for
from undertone.methods.sad.method import DPSAD
from undertone.models.pinned import PinnedBase, pin
from undertone_client.compute import workers
from undertone_client.compute.preparing import dry_run


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row needs besides the base takes seconds to draw, and no more memory than with few drawings."""
    make = kept_latents._make
    monkeypatch.setattr(kept_latents, "_make", lambda wanted, base: make(replace(wanted, drawings=80), base))


def site(device: str = "cpu", dtype: str = "float32") -> Any:
    """A dry run needs a site's settings and nothing else of it: no folder, so that nothing can be written."""
    return SimpleNamespace(config=SimpleNamespace(device=device, dtype=dtype))


def base_of(name: str, class_base: Path) -> PinnedBase:
    return pin(str(class_base) if name in TOLD_CLASSES else "embedded:tiny")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_unit_of_each_method_fits(name: str, dtype: str, class_base: Path) -> None:
    dry_run(site(dtype=dtype), base_of(name, class_base), method_for(name, {}))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dp-sad"])
def test_where_it_does_not_the_message_says_what_would(
    name: str, class_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heaviest: list[Any] = []
    fits = workers.Worker._fits

    def only_lighter(self: Any, batch_size: int) -> bool:
        heaviest.append(self)
        return self is not heaviest[0] and fits(self, batch_size)

    monkeypatch.setattr(workers.Worker, "_fits", only_lighter)
    lighter = method_for(name, {}).lighter()
    with pytest.raises(ModelError, match="does not fit into the memory of cpu") as raised:
        dry_run(site(), base_of(name, class_base), method_for(name, {}))
    assert any(advice in str(raised.value) for advice, _ in lighter) == bool(lighter)


def test_rows_of_shards_have_nothing_lighter(class_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(DPSAD, "shard_row", full)
    assert not method_for("dp-sad", {}).lighter()
    with pytest.raises(ModelError, match="cpu cannot compute a row of random data: MemoryError"):
        dry_run(site(), base_of("dp-sad", class_base), method_for("dp-sad", {}))
