"""What the tensors of a network hold: numbers that it can compute with, or something else."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from mmengine.logging import print_log

from mmeffnet.errors import InputError

# Counters change no output.
COUNTERS = ('num_batches_tracked', 'n_averaged')
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def few(items: Iterable[str], most: int = 3) -> str:
    """The first of some keys, and how many more there are."""
    items = list(items)
    more = len(items) - most
    return ', '.join(items[:most]) + (f' and {more:,} more' if more > 0 else '')


def size_of(shape: Iterable[int]) -> str:
    """A shape as messages have it."""
    return 'x'.join(map(str, shape)) or 'a scalar'


def check_kinds(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse tensors that are no dense floating-point numbers; counters may be.

    PyTorch would copy whole numbers, as of quantised weights, without their scale.
    Raises InputError with the first key, what it is, and the way out.
    """
    wrong = {key: _strange(tensor) for key, tensor in state.items()
             if not key.endswith(COUNTERS) and _strange(tensor)}
    for key, (kind, way_out) in wrong.items():
        more = f' (and {len(wrong) - 1:,} more are no such numbers)' if len(wrong) > 1 else ''
        *most, last = map(_name, FLOATS)
        raise InputError(f'{source!r}: {key} is {kind}{more}, and weights are dense numbers of '
                         f'{", ".join(most)} or {last}: {way_out}')


def warn_of_values(state: Mapping[str, torch.Tensor], source: str) -> None:
    """One warning for tensors with values that make every output no number."""
    # Both ends are no number where any value is none; one pass, without a copy.
    ends = {key: torch.stack(tensor.detach().aminmax()) for key, tensor in state.items()
            if not key.endswith(COUNTERS) and tensor.numel()}
    broken = [key for key, both in ends.items() if not both.isfinite().all()]
    negative = [key for key, both in ends.items() if key.endswith('.running_var') and both[0] < 0]
    problems = [f'{len(keys)} tensors have {what}: {few(keys)}' for keys, what in (
        (broken, 'values that are not finite, as of a training that diverged'),
        (negative, 'variances below zero, whose root is no number')) if keys]
    if problems:
        print_log(f'{source}: {"; ".join(problems)}', 'current', level=logging.WARNING)


def _strange(tensor: torch.Tensor) -> tuple[str, str] | None:
    """What no network takes, and the way out of it; None for numbers as they should be."""
    if tensor.is_meta:
        return "on the device 'meta', without numbers", (
            'save the state_dict of a network whose weights are loaded')
    if tensor.layout is not torch.strided:
        return _name(tensor.layout), 'save it as a dense tensor, by to_dense()'
    if tensor.dtype not in FLOATS:
        return f'of {_name(tensor.dtype)}', (
            'save the weights before they were quantised or converted, or multiplied by their '
            'scales, as float32')
    return None


def _name(kind) -> str:
    return str(kind).removeprefix('torch.')
