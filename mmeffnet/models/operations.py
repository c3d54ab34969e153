"""What the layers of a deployed network do to images of one shape, as functions.

Each is made with a tensor of the shape at hand, and run once on it: what comes out has the shape
of the next layer's input. They write over what they made themselves, never over what they are
given.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

from mmeffnet.models.blocks import FusedMBConv, MBConv, SqueezeExcite, idle
from mmeffnet.models.direct import (
    CONVOLUTIONS,
    DENSE,
    IN_PLACE,
    ONE,
    fine_bias,
    is_product,
    most_at_once,
    pixel_mean,
    plain_order,
)
from mmeffnet.models.layers import Conv2dSame, conv2d, dropped
from mmeffnet.models.packing import BARE, FUSED, packed, packed_conv2d, packs
from mmeffnet.models.recompute import LeanConvModule
from mmeffnet.models.turned import turn, turned_padding


class UnplannedError(Exception):
    """A layer that has to be run as the module it is."""


class Making(NamedTuple):
    """What the functions of a network have in common.

    weights: packed ones by convolution and whether they are turned, of which there will be more.
    turned: whether tensors are upside down (``turned``).
    """

    weights: dict
    turned: bool


def planned(module: nn.Module, x: torch.Tensor, making: Making):
    """A function that does to a tensor like ``x`` what ``module`` would, and what it did to ``x``.

    Raises UnplannedError.
    """
    plan = STEPS.get(type(module))
    if plan is None:
        raise UnplannedError
    return plan(module, x, making)


def _chain(modules, x, making):
    steps = []
    for module in modules:
        if type(module) is not nn.Identity:
            step, x = planned(module, x, making)
            steps.append(step)
    if len(steps) == 1:
        return steps[0], x

    def chain(x):
        for step in steps:
            x = step(x)
        return x
    return chain, x


def _block(block, x, making):
    """In parts, where ``direct.parts`` would take them."""
    most = most_at_once(x, block.hidden * x.shape[2] * x.shape[3])
    if most >= len(x):
        return _whole_block(block, x, making)
    steps, outs = {}, []
    for part in x.split(most):
        steps[len(part)], out = _whole_block(block, part, making)
        outs.append(out)
    return (lambda x: torch.cat([steps[len(part)](part) for part in x.split(most)]),
            torch.cat(outs))


def _whole_block(block, x, making):
    if not idle(block.drop_path):
        raise UnplannedError
    steps, out = _chain([block._modules[name] for name in block.order], x, making)
    if not block.skip:
        return steps, out
    return (lambda x: steps(x).add_(x)), out.add_(x)


def _excite(se, x, making):
    gate, scale = _chain((se.conv1, se.conv2), pixel_mean(x), making)
    return (lambda x: x.mul_(gate(pixel_mean(x)))), x.mul_(scale)


def _conv_module(module, x, making):
    inner = module._modules
    conv, activate = inner['conv'], inner['activate'] if module.with_activation else None
    if not (plain_order(module) and type(conv) in CONVOLUTIONS and conv.padding_mode == 'zeros'
            and (not module.with_norm or type(inner[module.norm_name]) is nn.Identity)):
        raise UnplannedError
    if is_product(x, conv) and fine_bias(conv) is conv.bias and (
            x.shape[2] * x.shape[3] == 1 or not packs(x)):
        step = _product(x, conv, IN_PLACE.get(type(activate), activate))
    else:
        step = _convolution(x, conv, activate, making)
    return step, step(x)


def _product(x, conv, activate):
    count, channels, height, width = x.shape
    # Detached: nobody could exchange a weight that has a view (``swap_tensors``).
    matrix, bias, activate = conv.weight.detach().flatten(1), conv.bias, activate or _as_it_is
    outs = len(matrix)
    if height * width == 1:
        return lambda x: activate(F.linear(x.flatten(1), matrix, bias)).view(count, outs, 1, 1)
    return lambda x: activate(F.linear(
        x.permute(0, 2, 3, 1).reshape(-1, channels), matrix, bias)).view(
            count, height, width, outs).permute(0, 3, 1, 2)


def _as_it_is(x):
    return x


def _convolution(x, conv, activate, making):
    turned = making.turned and conv.kernel_size != ONE
    whole, weight, padding, early, ends = x, conv.weight, conv.padding, (0, 0), None
    if turned:
        weight, padding = turn(weight.detach()), turned_padding(conv, x.shape[-2:])
    elif type(conv) is Conv2dSame and conv.depends_on_size:
        padding, early, ends = conv.placed(x)
        whole = F.pad(x, ends) if ends else x
    setting = conv.stride, padding, conv.dilation, conv.groups
    if packs(x):
        try:
            weight = packed(whole, weight, *setting,
                            making.weights.setdefault((conv, turned), {}))
        except RuntimeError as error:
            raise UnplannedError from error
        fused = None if any(early) else FUSED[x.dtype].get(type(activate))
        activate = None if fused else activate
        convolve, rest = packed_conv2d(weight, fine_bias(conv), *setting, fused or BARE)
    else:
        convolve, rest = conv2d, (weight, fine_bias(conv), *setting)
    if any(early):
        return _past(early, activate, convolve, rest)
    activate = IN_PLACE.get(type(activate), activate)
    if ends:
        activate = activate or _as_it_is
        return lambda x: activate(convolve(F.pad(x, ends), *rest))
    if activate is None:
        return lambda x: convolve(x, *rest)
    return lambda x: activate(convolve(x, *rest))


def _past(early, activate, convolve, rest):
    """Of what a convolution puts out beginning with ``early`` rows and columns."""
    top, left = early
    if type(activate) in DENSE:
        activate = DENSE[type(activate)]
        return lambda x: activate(convolve(x, *rest)[..., top:, left:])
    activate = activate or _as_it_is
    return lambda x: activate(dropped(convolve(x, *rest), early))


STEPS = {ConvModule: _conv_module, LeanConvModule: _conv_module, SqueezeExcite: _excite,
         MBConv: _block, FusedMBConv: _block, nn.Sequential: _chain}
