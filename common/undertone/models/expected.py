"""Tensors that a part must have, by its settings: names and shapes, without torch.

Not all of them: one or more of each layer, block and end, so that a file which lacks a piece, or belongs to other
settings, is told from a whole one. Where settings leave the ways of Stable Diffusion 1.x/2.x, nothing is expected of
the block in question; diffusers says the rest when it loads.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Config = Mapping[str, Any]
Shape = tuple[int, ...]
# Any of the names will do; an axis of None, or a shape of None, may have any length.
Expected = tuple[tuple[str, ...], tuple[object, ...] | None]

_DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
_MID = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
BARE_DOWN = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
BARE_UP = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
_TO_WORDS = "transformer_blocks.0.attn2.to_k.weight"


def first_missing(part: str, config: Config, shapes: Mapping[str, Shape]) -> str | None:
    """The first tensor that `part` must have and that is not there, or in another shape; None where all are.

    Args:
        part: `unet`, `vae`, `text_encoder`, or `bare_unet` of a UNet2DModel.
        config: its config.json.
        shapes: name -> shape of every tensor in its files.
    """
    for names, wanted in EXPECTED[part](config):
        found = next((shapes[name] for name in names if name in shapes), None)
        if found is None:
            return names[0]
        if wanted is not None and not _fits(found, wanted):
            return f"{names[0]} of the shape {_shown(wanted)} (it has {_shown(found)})"
    return None


def _unet(config: Config) -> Iterator[Expected]:
    channels = _integers(config.get("block_out_channels", (320, 640, 1280, 1280)))
    yield _one("conv_in.weight", _at(channels, 0), config.get("in_channels", 4), None, None)
    yield _one("time_embedding.linear_1.weight", None, None)
    words = not config.get("dual_cross_attention") and config.get("encoder_hid_dim_type") is None
    layers, depth = config.get("layers_per_block", 2), config.get("transformer_layers_per_block", 1)
    for way, types, wide, more, backwards in (
        ("down", config.get("down_block_types", _DOWN), channels, 0, 1),
        ("up", config.get("up_block_types", _UP), channels[::-1], 1, -1),
    ):
        for block, kind in enumerate(types if isinstance(types, list | tuple) else ()):
            for layer in range(_layers(layers, block, backwards) + more if kind in (*_DOWN, *_UP) else 0):
                name = f"{way}_blocks.{block}"
                yield _one(f"{name}.resnets.{layer}.conv1.weight", _at(wide, block), None, None, None)
                yield _one(f"{name}.resnets.{layer}.conv2.weight", _at(wide, block), _at(wide, block), None, None)
                if words and kind.startswith("CrossAttn") and _layers(depth, block, backwards) > 0:
                    yield _one(f"{name}.attentions.{layer}.{_TO_WORDS}", None, None)
    mid = config.get("mid_block_type", _MID[0])
    if mid in _MID:
        yield _one("mid_block.resnets.0.conv1.weight", _at(channels, -1), _at(channels, -1), None, None)
        if words and mid == _MID[0] and _layers(depth, 1 << 20, 1) > 0:
            yield _one(f"mid_block.attentions.0.{_TO_WORDS}", None, None)
    yield _one("conv_out.weight", config.get("out_channels", 4), _at(channels, 0), None, None)


def _bare_unet(config: Config) -> Iterator[Expected]:
    """A UNet2DModel, which attends to itself alone and may have a class embedding."""
    channels = _integers(config.get("block_out_channels", (224, 448, 672, 896)))
    yield _one("conv_in.weight", _at(channels, 0), config.get("in_channels", 3), None, None)
    yield _one("time_embedding.linear_1.weight", None, None)
    yield _one("time_embedding.linear_2.weight", None, None)
    if config.get("num_class_embeds") is not None:
        wide = config.get("time_embedding_dim") or 4 * (_at(channels, 0) or 0)
        yield _one("class_embedding.weight", config["num_class_embeds"], wide)
    layers = config.get("layers_per_block", 2)
    for way, types, wide_of, more in (
        ("down", config.get("down_block_types", BARE_DOWN), channels, 0),
        ("up", config.get("up_block_types", BARE_UP), channels[::-1], 1),
    ):
        for block, kind in enumerate(types if isinstance(types, list | tuple) else ()):
            for layer in range(_layers(layers, block, 1) + more):
                name, wide = f"{way}_blocks.{block}", _at(wide_of, block)
                yield _one(f"{name}.resnets.{layer}.conv1.weight", wide, None, None, None)
                yield _one(f"{name}.resnets.{layer}.conv2.weight", wide, wide, None, None)
                if kind.startswith("Attn"):
                    yield from _attention(f"{name}.attentions.{layer}", wide)
    if config.get("mid_block_type", "UNetMidBlock2D") is not None:
        yield _one("mid_block.resnets.0.conv1.weight", _at(channels, -1), _at(channels, -1), None, None)
        yield _one("mid_block.resnets.1.conv1.weight", _at(channels, -1), _at(channels, -1), None, None)
        if config.get("add_attention", True):
            yield from _attention("mid_block.attentions.0", _at(channels, -1))
    yield _one("conv_norm_out.weight", _at(channels, 0))
    yield _one("conv_out.weight", config.get("out_channels", 3), _at(channels, 0), None, None)


def _attention(name: str, wide: int | None) -> Iterator[Expected]:
    """Files of before 2023 say `query` and so on; diffusers renames them when it loads."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        yield (f"{name}.{new}.weight", f"{name}.{old}.weight"), (wide, wide)


def _vae(config: Config) -> Iterator[Expected]:
    channels, latent = _integers(config.get("block_out_channels", (64,))), config.get("latent_channels", 4)
    layers, middle = config.get("layers_per_block", 1), _at(channels, -1)
    both = 2 * latent if isinstance(latent, int) else None  # means and logarithms of variances
    yield _one("encoder.conv_in.weight", _at(channels, 0), config.get("in_channels", 3), None, None)
    yield _one("encoder.conv_out.weight", both, middle, None, None)
    yield _one("decoder.conv_in.weight", middle, latent, None, None)
    yield _one("decoder.conv_out.weight", config.get("out_channels", 3), _at(channels, 0), None, None)
    for way, standard, wide, more in (
        ("encoder.down", "DownEncoderBlock2D", channels, 0),
        ("decoder.up", "UpDecoderBlock2D", channels[::-1], 1),
    ):
        types = config.get(f"{way.partition('.')[2]}_block_types", (standard,))
        for block, kind in enumerate(types if isinstance(types, list | tuple) else ()):
            for layer in range(_layers(layers, block, 1) + more if kind == standard else 0):
                yield _one(f"{way}_blocks.{block}.resnets.{layer}.conv1.weight", _at(wide, block), None, None, None)
    for half in ("encoder", "decoder"):
        yield _one(f"{half}.mid_block.resnets.0.conv1.weight", middle, middle, None, None)
        if config.get("mid_block_add_attention", True):
            # Files of before 2023 say `query`; diffusers renames it when it loads.
            attention = f"{half}.mid_block.attentions.0"
            yield (f"{attention}.to_q.weight", f"{attention}.query.weight"), None
    if config.get("use_quant_conv", True):
        yield _one("quant_conv.weight", both, both, 1, 1)
    if config.get("use_post_quant_conv", True):
        yield _one("post_quant_conv.weight", latent, latent, 1, 1)


def _text_encoder(config: Config) -> Iterator[Expected]:
    width, inner = config.get("hidden_size", 512), config.get("intermediate_size", 2048)
    yield _text("embeddings.token_embedding.weight", config.get("vocab_size", 49408), width)
    yield _text("embeddings.position_embedding.weight", config.get("max_position_embeddings", 77), width)
    for layer in range(_layers(config.get("num_hidden_layers", 12), 0, 1)):
        for name in ("q", "k", "v", "out"):
            yield _text(f"encoder.layers.{layer}.self_attn.{name}_proj.weight", width, width)
        yield _text(f"encoder.layers.{layer}.mlp.fc1.weight", inner, width)
        yield _text(f"encoder.layers.{layer}.mlp.fc2.weight", width, inner)
    yield _text("final_layer_norm.weight", width)


def _one(name: str, *shape: object) -> Expected:
    return (name,), shape


def _text(name: str, *shape: object) -> Expected:
    """With the level `text_model`, which transformers 5 no longer has, or without."""
    return (f"text_model.{name}", name), shape


def _fits(found: Shape, wanted: tuple[object, ...]) -> bool:
    return len(found) == len(wanted) and all(one in (None, length) for length, one in zip(found, wanted, strict=True))


def _layers(value: object, block: int, backwards: int) -> int:
    """How many layers a block has: one figure for all, or a list of them, which the way up reads from its end."""
    one = value[::backwards][block] if isinstance(value, list | tuple) and block < len(value) else value
    return one if isinstance(one, int) and not isinstance(one, bool) else 0


def _integers(value: object) -> tuple[int, ...]:
    return tuple(one for one in value if isinstance(one, int)) if isinstance(value, list | tuple) else ()


def _at(values: tuple[int, ...], index: int) -> int | None:
    return values[index] if -len(values) <= index < len(values) else None


def _shown(shape: tuple[object, ...]) -> str:
    return f"[{', '.join('any' if length is None else str(length) for length in shape)}]"


EXPECTED = {"unet": _unet, "vae": _vae, "text_encoder": _text_encoder, "bare_unet": _bare_unet}
