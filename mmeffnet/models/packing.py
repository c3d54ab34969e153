"""Weights in the order that PyTorch's library for CPUs (oneDNN) computes with.

Of a convolution it puts the weight into an order of its own, in each call anew: a tenth of the time
of one image. Weights that stay are put in order once. An activation that is computed with the
convolution then reads and writes nothing of its own.
"""
from __future__ import annotations

import ctypes
import functools

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import Swish
from torch import nn

from mmeffnet.models.formulas import HALVES

# Activations that the library computes with the convolution: its names for them, and their numbers.
CLIPPED = {nn.ReLU: ('relu', ()), nn.ReLU6: ('hardtanh', (0., 6.))}
SMOOTH = {nn.SiLU: ('swish', ()), Swish: ('swish', ())}
# Swish in float32 takes longer there than in a pass of its own (by hand: 3 % of a network).
FUSED = {torch.float32: CLIPPED, **dict.fromkeys(HALVES, CLIPPED | SMOOTH)}
BARE = 'none', ()
BEGINNING = 4096  # bytes: some blocks of every order


def packed(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation, groups,
           kept: dict) -> torch.Tensor:
    """The weight of a convolution in the order for inputs like ``x``, where ``packs(x)``.

    padding: zeros that the convolution adds to ``x``; RuntimeError where it has no output.

    An opaque tensor, which cannot be copied or saved. In the order for another shape it gives the
    same, but may take several times as long: there is one of each order, those of this
    weight so far in ``kept``.
    """
    weight = torch.ops.mkldnn._reorder_convolution_weight(
        weight.detach(), padding, stride, dilation, groups, x.shape)
    return kept.setdefault(_order(weight), weight)


def _order(weight):
    """What tells orders apart, of which the library says nothing: size, and how it begins."""
    size = torch.ops.mkldnn._nbytes(weight)
    return size, ctypes.string_at(torch.ops.mkldnn.data_ptr(weight), min(size, BEGINNING))


def packed_conv2d(weight, bias, stride, padding, dilation, groups, activation=BARE):
    """An operation and what it takes after ``x``, to compute ``F.conv2d`` of a packed weight and an
    activation of ``FUSED``; in channels last. A bias may be finer than the weight."""
    return torch.ops.mkldnn._convolution_pointwise.default, (
        weight, bias, padding, stride, dilation, groups, *activation, '')


def packs(x: torch.Tensor) -> bool:
    """Whether convolutions of ``x`` take packed weights."""
    return x.is_cpu and torch.backends.mkldnn.enabled and _has_order(x.dtype)


@functools.cache
def _has_order(dtype: torch.dtype) -> bool:
    """Whether this processor and this PyTorch have such an order, which PyTorch's compiler uses."""
    with torch.inference_mode():
        conv = nn.Conv2d(2, 2, 1, device='cpu', dtype=torch.float32)
        nn.init.constant_(conv.bias, 1)
        nn.init.eye_(conv.weight.view(2, 2))
        conv.to(dtype)
        x = torch.tensor([1., 2.], dtype=dtype, device='cpu').view(1, 2, 1, 1)
        try:
            setting = (1, 1), (0, 0), (1, 1), 1
            convolve, rest = packed_conv2d(packed(x, conv.weight, *setting, {}), conv.bias,
                                           *setting)
            got = convolve(x, *rest)
        except (RuntimeError, AttributeError):
            return False
        return torch.equal(got, F.conv2d(x, conv.weight, conv.bias))
