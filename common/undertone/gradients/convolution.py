"""Convolutions: per-unit weight gradients as one grouped convolution, norms from Gram matrices of pixels.

The Gram matrix of patches is never made from patches (k_h k_w times the input): the inner product of two patches is a
sum of inner products of pixels, so it is a sum of shifted views of one Gram matrix of pixels.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undertone.gradients.integers import equal_parts
from undertone.gradients.rules import GhostRule

_CHUNK = 1 << 20  # values of Gram matrices at a time: what a processor's cache holds
_DIRECT = 128  # values of the weight for each pixel of a unit, up to which its gradient is made faster than the Gram


class ConvRule(GhostRule):
    """`nn.Conv2d` with any stride, padding, dilation and groups, on [rows, channels, height, width]."""

    casts = True

    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """[n, out, in / groups, k_h, k_w]."""
        conv = cast(nn.Conv2d, layer)
        if _pointwise(conv):
            a, b = x.transpose(1, 2).flatten(2), g.transpose(1, 2).flatten(2)
            return torch.bmm(b, a.transpose(1, 2)).reshape(x.shape[0], *conv.weight.shape)
        units = x.shape[0]
        # Units as groups: [k, n * channels, h, w]. The kernel sums over its batch, which is a unit's rows.
        a, b = x.transpose(0, 1).flatten(1, 2), g.transpose(0, 1).flatten(1, 2)
        return _weight_gradient(conv, a, b, units).reshape(units, *conv.weight.shape)

    def bias(self, layer: nn.Module, g: Tensor) -> Tensor:
        """The sum over rows and pixels, [n, out]."""
        return g.sum((1, 3, 4))

    def squared_norm(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """<Gram of patches, Gram of output gradients>, summed over groups, [n]; of small weights the gradient's own."""
        conv = cast(nn.Conv2d, layer)
        if conv.weight.numel() <= _DIRECT * x[0, :, 0].numel():
            size = conv.weight.numel()
            return torch.cat([self._of_gradient(conv, x[p], g[p]) for p in equal_parts(len(x), _CHUNK // size)])
        x, padding = _padded(conv, x)
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        size = x[0, :, 0].numel() ** 2 * conv.groups
        return torch.cat([_squared_norm(conv, x[part], g[part]) for part in equal_parts(len(x), _CHUNK // size)])

    def _of_gradient(self, conv: nn.Conv2d, x: Tensor, g: Tensor) -> Tensor:
        squares: Tensor = torch.linalg.vector_norm(self.weight(conv, x, g).flatten(2), dim=2).square().sum(1)
        return squares


def _pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _padded(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The input and the zero padding that the kernel still has to add; "same" and other modes are padded here."""
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return x, cast(tuple[int, int], conv.padding)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    flat = F.pad(x.reshape(-1, *x.shape[-3:]), conv._reversed_padding_repeated_twice, mode=mode)
    return flat.reshape(*x.shape[:-3], *flat.shape[1:]), (0, 0)


def _weight_gradient(conv: nn.Conv2d, x: Tensor, g: Tensor, units: int) -> Tensor:
    """The weight gradient of `units` convolutions side by side: x [batch, units * in, h, w], g likewise."""
    x, padding = _padded(conv, x)
    shape = (units * conv.weight.shape[0], *conv.weight.shape[1:])
    weight = conv.weight.new_empty(shape, dtype=x.dtype)  # only its shape is read
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with exact:  # a graphics card would round the products to 10 bits
        _, gradient, _ = torch.ops.aten.convolution_backward(
            g, x, weight, None, conv.stride, padding, conv.dilation, False, [0, 0], units * conv.groups,
            [False, True, False],
        )  # fmt: skip
    return cast(Tensor, gradient)


def _squared_norm(conv: nn.Conv2d, x: Tensor, g: Tensor) -> Tensor:
    """The same for some of the units, x already padded."""
    n, k, _, high, wide = x.shape
    out = g.shape[-2:]
    a = _by_group(x, conv.groups)  # [n * groups, channels, k * pixels]
    pixels = torch.bmm(a.transpose(1, 2), a).reshape(-1, k, high, wide, k, high, wide)
    rows = sum(_shift(pixels, 2, i * conv.dilation[0], conv.stride[0], out[0]) for i in range(conv.kernel_size[0]))
    patches = sum(
        _shift(cast(Tensor, rows), 3, j * conv.dilation[1], conv.stride[1], out[1]) for j in range(conv.kernel_size[1])
    )
    b = _by_group(g, conv.groups)
    gradients = torch.bmm(b.transpose(1, 2), b).reshape(-1, k, *out, k, *out)
    return (cast(Tensor, patches) * gradients).reshape(n, -1).sum(1)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """[n, k, groups * c, h, w] -> [n * groups, c, k * h * w]."""
    n, k, channels, high, wide = x.shape
    split = x.reshape(n, k, groups, channels // groups, high, wide)
    return split.permute(0, 2, 3, 1, 4, 5).reshape(n * groups, channels // groups, k * high * wide)


def _shift(gram: Tensor, axis: int, start: int, stride: int, count: int) -> Tensor:
    """The view that begins at `start` on one axis of both pixels: [n, k, h, w, k, h, w], axis 2 (h) or 3 (w)."""
    chosen = slice(start, start + stride * (count - 1) + 1, stride)
    index = [slice(None)] * 7
    index[axis] = index[axis + 3] = chosen
    return gram[tuple(index)]
