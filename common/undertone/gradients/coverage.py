"""Which layers hold the trained parameters, and what the engine refuses (fail closed)."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from undertone.errors import ModelError
from undertone.gradients.convolution import ConvRule
from undertone.gradients.embedding import EmbeddingRule
from undertone.gradients.linear import LinearRule
from undertone.gradients.normalisation import GroupNormRule, LayerNormRule
from undertone.gradients.rules import Rule

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.Conv2d: ConvRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.Embedding: EmbeddingRule(),
}


@dataclass(frozen=True, eq=False)
class TrainedLayer:
    """A layer with trained parameters: where its weight and bias stand in the layout, None if they are frozen."""

    name: str
    module: nn.Module
    rule: Rule
    weight: int | None
    bias: int | None
    shared: bool
    """Another layer holds one of these parameters too: gradients are added up before any norm."""


def cover(model: nn.Module, parameters: Sequence[str]) -> list[TrainedLayer]:
    """The layers that hold these parameters, each exactly as `RULES` knows it.

    Args:
        model: everything that runs in the forward pass.
        parameters: names as in `model.named_parameters()`, in the order of the layout.

    Raises:
        ModelError: an unknown or doubled name; a layer type without a rule; a layer that mixes the batch.
    """
    refuse_batch_mixing(model)
    places = _places(model, parameters)
    found: list[TrainedLayer] = []
    holders: dict[int, int] = {}
    for name, module in model.named_modules():
        own = {key: places[id(p)] for key, p in module.named_parameters(recurse=False) if id(p) in places}
        if not own:
            continue
        rule = _rule(name, module, own)
        found.append(TrainedLayer(name, module, rule, own.get("weight"), own.get("bias"), shared=False))
        for place in own.values():
            holders[place] = holders.get(place, 0) + 1
    return [_shared(layer, holders) for layer in found]


def refuse_batch_mixing(model: nn.Module) -> None:
    """Refuse a layer in which one row of a batch can change another (PRIVACY 3), trained or frozen.

    Raises:
        ModelError: says which layer and what to use instead.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(f"{name} is batch normalisation, which mixes the rows of a batch; use GroupNorm instead")
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ModelError(f"{name} keeps statistics of all rows; build it with track_running_stats=False")
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            raise ModelError(f"{name} rescales its table by the batch it sees; build it without max_norm")


def _places(model: nn.Module, parameters: Sequence[str]) -> dict[int, int]:
    """The place in the layout of each trained parameter, by `id` of its tensor."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if not parameters:
        raise ModelError("no parameter is trained; name at least one")
    places: dict[int, int] = {}
    for place, name in enumerate(parameters):
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise ModelError(f"the model has no parameter {name}" + (f"; the nearest is {close[0]}" if close else ""))
        if id(known[name]) in places:
            raise ModelError(f"{name} is named twice, or is the same tensor as {parameters[places[id(known[name])]]}")
        places[id(known[name])] = place
    return places


def _rule(name: str, module: nn.Module, own: dict[str, int]) -> Rule:
    """The rule of this layer's type; a subclass counts only if it computes what its parent computes."""
    parent = next((known for known in RULES if isinstance(module, known)), None)
    if parent is None or type(module).forward is not parent.forward or not own.keys() <= {"weight", "bias"}:
        covered = ", ".join(sorted(known.__name__ for known in RULES))
        raise ModelError(
            f"{name} ({type(module).__name__}: {', '.join(own)}) cannot be trained with bounded contributions; "
            f"covered are weight and bias of {covered}. Leave it out, or use rows_by_opacus"
        )
    reason = RULES[parent].refusal(module)
    if reason:
        raise ModelError(f"{name}: {reason}")
    return RULES[parent]


def _shared(layer: TrainedLayer, holders: dict[int, int]) -> TrainedLayer:
    shared = any(holders[place] > 1 for place in (layer.weight, layer.bias) if place is not None)
    return TrainedLayer(layer.name, layer.module, layer.rule, layer.weight, layer.bias, shared)
