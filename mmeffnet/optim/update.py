"""RMSpropTF's rule, in place, on tensors.

With sum = (square + eps) / (1 - alpha) the rule is  sum = alpha * sum + eps + g^2;  step = momentum
* step + lr / sqrt(1 - alpha) * g / sqrt(sum);  parameter -= step.  The sum's square and the
division by its root are what Adagrad does, for which PyTorch has code that passes over memory once.
"""
import torch
from torch.distributed.tensor import DTensor

from mmeffnet.optim.single_pass import numbers_of, same_order, single_pass
from mmeffnet.optim.sums import STEP

PLAIN = {torch.Tensor, torch.nn.Parameter}
# Of a step, which Adagrad's rate may depend on; ours does not.
ORDINAL = torch.ones((), dtype=torch.float32, device='cpu')


class Scratch:
    """Memory for what lies between two operations, kept from step to step.

    Memory that is given back to the system has to be cleared by it before it comes again, which
    takes longer than the operation.
    """

    def __init__(self):
        self._tensors = {}

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the shape, order and type of ``tensor``, which lies in memory without gaps; holds
        anything, until the next call."""
        found = self._tensors.get(tensor.dtype)
        if found is None or found.numel() < tensor.numel():
            found = self._tensors[tensor.dtype] = tensor.new_empty(tensor.numel())
        return found.as_strided(tensor.shape, tensor.stride())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' share of a sharded tensor, in place; other tensors as they are.

    What an update does to each element by itself needs no other share, and operations on many
    tensors at once take no mixture of both kinds.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def update_each(params, grads, sums, steps, scratch, *, lr, weight_decay, decoupled_weight_decay,
                **rule) -> None:
    """One parameter after another."""
    for param, grad, total, step in zip(params, grads, sums, steps, strict=True):
        vectors = _as_vectors(param, grad, total, step)
        if weight_decay and decoupled_weight_decay:
            param.mul_(1 - lr * weight_decay)
        elif weight_decay:
            grad = torch.add(grad, param, alpha=weight_decay,
                             out=scratch.like(total) if vectors else None)
        _advance(grad, total, step, vectors, lr=lr, **rule)
        param.sub_(step)


def update_gathered(gathered, params, grads, compiled, *, lr, weight_decay,
                    decoupled_weight_decay, **rule) -> None:
    """Parameters whose state lies together (``mmeffnet.optim.gathered.Gathered``)."""
    if weight_decay and not decoupled_weight_decay:
        for place, grad, param in zip(gathered.grads, grads, params, strict=True):
            torch.add(grad, param, alpha=weight_decay, out=place)
    else:
        torch._foreach_copy_(gathered.grads, grads)
        if weight_decay:
            torch._foreach_mul_(params, 1 - lr * weight_decay)
    if compiled:
        numbers = numbers_of(lr=lr, weight_decay=0., decoupled_weight_decay=False, **rule)
        for part in gathered.parts:
            single_pass()(*part, numbers)
    else:
        for part in gathered.parts:
            _advance(*part, _as_vectors(*part), lr=lr, **rule)
    torch._foreach_sub_(params, gathered.states[STEP])


def update_together(params, grads, sums, steps, *, lr, alpha, eps, momentum, weight_decay,
                    decoupled_weight_decay) -> None:
    """For accelerators, which are faster the more they are given at once."""
    if weight_decay and decoupled_weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    elif weight_decay:
        grads = torch._foreach_add(grads, params, alpha=weight_decay)
    torch._foreach_mul_(sums, alpha)
    torch._foreach_add_(sums, eps)
    torch._foreach_addcmul_(sums, grads, grads)
    torch._foreach_mul_(steps, momentum)
    torch._foreach_addcdiv_(steps, grads, torch._foreach_sqrt(sums), value=lr / (1 - alpha) ** .5)
    torch._foreach_sub_(params, steps)


def _advance(grad, total, step, vectors, *, lr, alpha, eps, momentum) -> None:
    """The step to subtract, of a gradient that has the decay in it. vectors: ``_as_vectors``."""
    step.mul_(momentum)
    rate = lr / (1 - alpha) ** .5
    if vectors:
        offset = torch.tensor(eps, dtype=total.dtype, device='cpu')
        torch.add(offset, total, alpha=alpha, out=total)
        if not same_order((grad, total)):
            grad = torch.empty_like(total).copy_(grad)
        torch._fused_adagrad_([step], [grad], [total], [ORDINAL], lr=rate, lr_decay=0.,
                              weight_decay=0., eps=0., maximize=True)
    else:
        total.mul_(alpha).add_(eps).addcmul_(grad, grad)
        step.addcdiv_(grad, total.sqrt(), value=rate)


def _as_vectors(*tensors) -> bool:
    """Whether Adagrad's code, which takes numbers as they lie in memory, may be given these.

    The last three are gradient, sum and step; the gradient's may lie in another order.
    """
    grad = tensors[-3]
    return (grad.device.type == 'cpu' and {*map(type, tensors)} <= PLAIN
            and {tensor.dtype for tensor in tensors} in ({torch.float32}, {torch.float64})
            and len({tensor.shape for tensor in tensors}) == 1 and same_order(tensors[-2:])
            # Numbers that are not in memory as they are.
            and not (grad.is_neg() or grad._is_zerotensor()))
