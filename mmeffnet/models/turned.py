"""SAME padding that costs nothing: a network that sees its images upside down.

SAME appends an odd zero to the end of an axis, and PyTorch pads evenly. Padded evenly by one zero
more, a strided convolution uses the one ahead and does not reach the one at the end: the mirror
image of SAME. An image and kernels that are turned by 180 degrees therefore take even padding in
each layer, and give the outputs turned by 180 degrees, to the rounding of sums in another order.
What remains is to turn an image of three channels, and the outputs, which are small.
"""
from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmeffnet.models.direct import DENSE, IN_PLACE, ONE
from mmeffnet.models.layers import Conv2dSame
from mmeffnet.models.packing import packs

POINTWISE = {*IN_PLACE, *DENSE}  # activations for which it does not matter where a value stands


def turn(x: torch.Tensor) -> torch.Tensor:
    """(..., H, W) by 180 degrees, in the layout of ``x``."""
    return x.flip(-2, -1)


def turns(layers: nn.Module, x: torch.Tensor) -> bool:
    """Whether layers of which ``operations`` knows each may be run so, and gain by it: where their
    weights are packed, once, and an image of this size needs an odd number of zeros somewhere."""
    size, lopsided = x.shape[-2:], False
    for module in layers.modules():
        if isinstance(module, ConvModule) and module.with_activation and (
                type(module.activate) not in POINTWISE):
            return False
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) != (ONE, ONE):
            if not _mirrors(module):
                return False
            if module.depends_on_size:
                lopsided |= any(total % 2 for total in module.zeros(size))
                size = [-(-length // stride) for length, stride in zip(size, module.stride)]
    return lopsided and packs(x)


def _mirrors(conv: nn.Conv2d) -> bool:
    """Whether padding begins and ends with the windows of the kernel, at every size."""
    if type(conv) is not Conv2dSame:
        return False
    return conv.stride == ONE if not conv.depends_on_size else all(
        kernel % 2 and (kernel - 1) * dilation + 1 >= stride
        for kernel, dilation, stride in zip(conv.kernel_size, conv.dilation, conv.stride))


def turned_padding(conv: Conv2dSame, size: tuple[int, int]) -> tuple[int, int]:
    """Zeros on both sides of a turned input of this height and width: an odd one is ahead."""
    if not conv.depends_on_size:
        return conv.padding
    return tuple(total - total // 2 for total in conv.zeros(size))
