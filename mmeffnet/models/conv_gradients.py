"""Gradients of convolutions: a choice among formulas, by what was measured for a layer.

On a CPU PyTorch's library computes some gradients of depthwise convolutions many times slower
than the convolution itself, above all in bfloat16, and which ones depends on kernel, stride, size
and processor. Other formulas give the same numbers; the first backward pass through a layer times
them. Layers that are not depthwise, and every other device, get the library's own.
"""
from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from mmeffnet.models.formulas import INPUT, LIBRARY, WEIGHT, first_order
from mmeffnet.models.layers import split_padding

ROUNDS = 3
GAIN = 0.9  # share of the library's time that another formula must stay below

# What was chosen: the gradient ('input' or 'weight'), what there is to choose from, and the layer
# -> the name of a formula.
CHOICES: dict[tuple, str] = {}


def conv_gradients(conv: nn.Conv2d, grad, x, weight, needed: tuple[bool, bool], size=None):
    """Gradients of input and weight of ``conv``, each None where it is not needed.

    grad: (N, C', H', W'), that of the output. x: (N, C, H, W), the input. weight: that of
    ``conv``. size: (H, W), where x has the zeros already that ``conv`` adds at its end alone.
    Where ``conv.fast_gradients`` is set, formulas are chosen as the module says.
    """
    padding, odd = split_padding(conv, size or x.shape[-2:])
    if size is None:
        size = x.shape[-2:]
        x = F.pad(x, (0, odd[1], 0, odd[0])) if any(odd) else x
    kind, wide_kind = x.dtype, weight.dtype
    # Autocast computes in another type than that of the weight.
    problem = (grad, x.to(grad.dtype), weight.to(grad.dtype), conv.stride, padding,
               conv.dilation, conv.groups)
    grad_x = grad_weight = None
    if needed[0]:
        grad_x = _chosen('input', INPUT, conv, problem)[..., :size[0], :size[1]].to(kind)
    if needed[1]:
        grad_weight = _chosen('weight', WEIGHT, conv, problem).to(wide_kind)
    return grad_x, grad_weight


class _Convolution(torch.autograd.Function):
    """A convolution without bias, whose gradients are ours."""

    @staticmethod
    def forward(ctx, x, weight, conv):
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        # Detached, as autocast would keep its copy for others, and this one has no history.
        return conv._conv_forward(x, weight.detach(), None)

    @staticmethod
    def backward(ctx, grad):
        first_order('build the backbone with fast_gradients=False')
        return *conv_gradients(ctx.conv, grad, *ctx.saved_tensors, ctx.needs_input_grad[:2]), None


def convolve(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """``conv(x)`` of a convolution without bias, with the gradients of this module."""
    return _Convolution.apply(x, conv.weight, conv)


def wants_fast_gradients(conv: nn.Conv2d) -> bool:
    """Whether the backbone was built with ``fast_gradients``, and numbers may depend on a clock."""
    return (getattr(conv, 'fast_gradients', False)
            and not torch.are_deterministic_algorithms_enabled())


def _chosen(of: str, formulas: dict, conv: nn.Conv2d, problem: tuple):
    """One gradient, by the formula that was the fastest for this layer."""
    if not (wants_fast_gradients(conv) and _may_choose(problem)):
        return formulas[LIBRARY][0](*problem)
    usable = {name: formula for name, (formula, can) in formulas.items() if can(problem)}
    key = (of, tuple(usable), *_layer(problem))
    if key not in CHOICES:
        CHOICES[key] = _fastest(usable, problem)
    return usable[CHOICES[key]](*problem)


def _may_choose(problem) -> bool:
    """Whether a layer is depthwise and on a CPU."""
    grad, x, weight, *_, groups = problem
    return (x.device.type == 'cpu' and type(grad) is type(x) is torch.Tensor
            and groups == x.shape[1] == weight.shape[0] and weight.shape[1] == 1)


def _layer(problem) -> tuple:
    """What decides which formula is the fastest.

    Sizes within a factor of two are one, so that images of many sizes are not measured without end.
    """
    grad, x, weight, stride, _, dilation, _ = problem
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    layouts = tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (grad, x))
    return (grad.dtype, tuple(weight.shape), stride, dilation, layouts, pixels.bit_length(),
            torch.get_num_threads())


def _fastest(formulas: dict[str, Callable], problem: tuple) -> str:
    """The fastest formula's name, or the library's where none is clearly faster.

    They take turns, and each counts with its best turn, which other work disturbed the least.
    """
    if len(formulas) == 1:
        return LIBRARY
    best = dict.fromkeys(formulas, float('inf'))
    for turn in range(ROUNDS + 1):
        for name, formula in formulas.items():
            start = time.perf_counter()
            formula(*problem)
            if turn:  # the first is for warmth
                best[name] = min(best[name], time.perf_counter() - start)
    found = min(best, key=best.get)
    return found if best[found] < GAIN * best[LIBRARY] else LIBRARY
