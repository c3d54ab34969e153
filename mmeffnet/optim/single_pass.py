"""A step of RMSpropTF in one pass over memory, by PyTorch's compiler."""
from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

L2, KEPT = 4, 5  # places among the numbers of a rule


def numbers_of(*, lr, alpha, eps, momentum, weight_decay, decoupled_weight_decay) -> torch.Tensor:
    """A rule as a tensor, which may change from step to step without another compilation."""
    l2, shrink = (0., lr * weight_decay) if decoupled_weight_decay else (weight_decay, 0.)
    return torch.tensor([lr / (1 - alpha) ** .5, alpha, eps, momentum, l2, 1 - shrink],
                        dtype=torch.float64, device='cpu')  # whatever the default is


def same_order(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the numbers of tensors of one shape lie without gaps and in one order in memory."""
    return any(all(tensor.is_contiguous(memory_format=order) for tensor in tensors)
               for order in (torch.contiguous_format, torch.channels_last))


def split(lists: Sequence[Sequence[torch.Tensor]]) -> tuple[list, list]:
    """Of parameters, gradients and so on: those of which all lie in one order, for each parameter a
    list of vectors; and the lists of the others."""
    vectors, rest = [], []
    for tensors in zip(*lists, strict=True):
        if same_order(tensors):
            vectors.append([tensor.detach().as_strided((tensor.numel(), ), (1, ))
                            for tensor in tensors])
        else:
            rest.append(tensors)
    return vectors, [*zip(*rest, strict=True)] or [()] * len(lists)


@functools.cache
def single_pass():
    """``advance``, compiled for vectors of any length at its first call.

    Past PyTorch's limit of compilations, of other types or numbers of threads, it is run as it is.
    """
    return torch.compile(advance, dynamic=True)


@functools.cache
def all_at_once():
    """``update``, compiled for the sizes it is given: a call for each parameter takes longer.

    Past that limit further sets of sizes are run as they are.
    """
    return torch.compile(update, dynamic=False)


def update(params, grads, sums, steps, numbers) -> None:
    """RMSpropTF's rule in place, for each parameter a row of ``numbers``."""
    for row, (param, grad, total, step) in enumerate(zip(params, grads, sums, steps)):
        shrunk, l2 = param * numbers[row, KEPT], numbers[row, L2]
        # Without decay an infinite weight stays one, as a mask may have it: 0 * inf is none.
        advance(torch.where(l2 == 0, grad, grad + l2 * shrunk), total, step, numbers[row])
        param.copy_(shrunk - step)


def advance(grad, total, step, numbers) -> None:
    """The step to subtract, in place, of a gradient that has the decay in it."""
    rate, alpha, eps, momentum = numbers[:L2].unbind()
    summed = total * alpha + eps + grad * grad
    total.copy_(summed)
    step.copy_(step * momentum + rate * grad / torch.sqrt(summed))
