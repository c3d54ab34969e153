"""Formulas for the gradients of depthwise convolutions: equal numbers at unequal speed.

Each takes a ``problem``: grad (N, C, H', W') of the output, input x (N, C, H, W), weight (C, 1, k,
k), and stride, padding, dilation (pairs) and groups of the convolution, and gives the gradient in
the type of ``grad``. Those of the input look at the shape and the layout of x alone.
"""
from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

LIBRARY = 'library'
HALVES = (torch.bfloat16, torch.float16)
# Columns of a kernel for which PyTorch's library on CPUs has code of its own.
COLUMNS = 3


def first_order(way_out: str) -> None:
    """RuntimeError in a backward pass that is to be differentiated: formulas record no history.

    PyTorch's ``once_differentiable`` refuses it later, and not at all where gradients of given
    tensors are asked for: what these get through our functions would be missing in silence.
    """
    if torch.is_grad_enabled():
        raise RuntimeError('gradients of gradients (create_graph=True) are not computed here: '
                           f'{way_out}')


def _library(grad, x, weight, stride, padding, dilation, groups, *, mask):
    grads = torch.ops.aten.convolution_backward(grad, x, weight, None, stride, padding, dilation,
                                                False, [0, 0], groups, [*mask, False])
    return grads[0] if mask[0] else grads[1]


def _input(*problem):
    return _library(*problem, mask=(True, False))


def _input_flipped(grad, x, weight, stride, padding, dilation, groups):
    """The convolution of the output's gradient with the flipped kernel, at stride 1."""
    around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[-2:], padding)]
    return F.conv2d(grad, weight.flip((2, 3)), None, 1, around, dilation, groups)


def _input_by_phases(grad, x, weight, stride, padding, dilation, groups):
    """At a stride, one flipped convolution for the pixels that lie alike between two strides."""
    result = torch.empty_like(x, dtype=grad.dtype)
    for firsts in product(*map(range, stride)):
        (rows, height), (columns, width) = (_phase(*axis) for axis in zip(
            firsts, x.shape[-2:], grad.shape[-2:], weight.shape[-2:], stride, padding))
        pixels = result[:, :, firsts[0]::stride[0], firsts[1]::stride[1]]
        if not pixels.numel():  # of an axis shorter than its stride
            continue
        if rows and columns:
            kernel = weight[:, :, rows][..., columns]
            pixels.copy_(_padded(grad, kernel, height, width, groups))
        else:
            pixels.zero_()  # a kernel shorter than its stride passes over them
    return result


def _phase(first: int, size: int, out: int, kernel: int, stride: int, padding: int):
    """Along an axis, the taps that reach pixels ``first``, ``first + stride``, ... from the last
    to the first, and the zeros around the output's gradient; fewer than none are cut off."""
    taps = list(range((first + padding) % stride, kernel, stride))[::-1]
    ahead = (first + padding) // stride
    return taps, (len(taps) - 1 - ahead, ahead + len(range(first, size, stride)) - out)


def _padded(x, weight, height: tuple[int, int], width: tuple[int, int], groups: int):
    """The convolution with zeros before and after an axis; without a copy where they are even."""
    even = [max(0, min(zeros)) for zeros in (height, width)]
    rest = [count - share for zeros, share in zip((width, height), even[::-1]) for count in zeros]
    return F.conv2d(F.pad(x, rest) if any(rest) else x, weight, None, 1, even, 1, groups)


def _weight(*problem):
    return _library(*problem, mask=(False, True))


def _weight_by_columns(grad, x, weight, stride, padding, dilation, groups):
    """A few columns of the kernel at a time, each a narrower convolution of a part of the input."""
    x = F.pad(x, (padding[1], padding[1]))
    parts = []
    for first in range(0, weight.shape[3], COLUMNS):
        part = weight[..., first:first + COLUMNS]
        start = first * dilation[1]
        reach = stride[1] * (grad.shape[3] - 1) + dilation[1] * (part.shape[3] - 1) + 1
        parts.append(_weight(grad, x[..., start:start + reach], part, stride, (padding[0], 0),
                             dilation, groups))
    return torch.cat(parts, 3)


def _input_wide(formula):
    """``formula`` of the input's gradient, in float32."""
    def wide(grad, x, weight, *geometry):
        shape = torch.empty_strided(x.shape, x.stride(), dtype=torch.float32, device=x.device)
        return formula(grad.float(), shape, weight.float(), *geometry)
    return wide


def _weight_wide(formula):
    """``formula`` of the weight's gradient, in float32."""
    def wide(grad, x, weight, *geometry):
        return formula(grad.float(), x.float(), weight.float(), *geometry)
    return wide


def _always(problem) -> bool:
    return True


def _flat(problem) -> bool:
    """Whether a flipped kernel goes backward: no stride, and no more zeros than it reaches."""
    _, _, weight, stride, padding, dilation, _ = problem
    return tuple(stride) == (1, 1) and all(
        p <= d * (k - 1) for p, d, k in zip(padding, dilation, weight.shape[-2:]))


def _strided(problem) -> bool:
    _, _, _, stride, _, dilation, _ = problem
    return tuple(stride) != (1, 1) and tuple(dilation) == (1, 1)


def _broad(problem) -> bool:
    return problem[2].shape[3] > COLUMNS


def _table(wide, library, **others) -> dict:
    """Name -> formula, and whether it can be used; for halves also each in float32."""
    found = {LIBRARY: (library, _always), **others}
    for name, (formula, can) in list(found.items()):
        widened = 'float32' if name == LIBRARY else f'{name} in float32'
        found[widened] = wide(formula), lambda problem, can=can: (
            problem[0].dtype in HALVES and can(problem))
    return found


INPUT = _table(_input_wide, _input, flipped=(_input_flipped, _flat),
               phases=(_input_by_phases, _strided))
WEIGHT = _table(_weight_wide, _weight, columns=(_weight_by_columns, _broad))
