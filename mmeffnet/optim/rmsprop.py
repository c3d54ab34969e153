"""RMSProp as TensorFlow computes it, which the published networks were trained with."""
from collections import defaultdict

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmeffnet.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class RMSpropTF(Optimizer):
    """RMSProp with TensorFlow's rule, which is not PyTorch's.

    For a gradient g:  square = alpha * square + (1 - alpha) * g^2, starting at one;
    step = momentum * step + lr * g / sqrt(square + eps);  parameter -= step.
    PyTorch starts the square at zero, adds eps outside of the root, and multiplies the momentum
    by the present learning rate, so that its steps jump wherever the schedule does.

    Args:
        params (iterable): Parameters or groups of them.
        lr (float): Learning rate. Defaults to 0.016, for batches of 256.
        alpha (float): Decay of the mean square. Defaults to 0.9.
        eps (float): Added to the mean square inside the root. Defaults to 1e-3.
        momentum (float): Defaults to 0.9.
        weight_decay (float): Defaults to 0.
        decoupled_weight_decay (bool): False, the default, adds ``weight_decay * parameter``
            to the gradient (L2, the reference); True shrinks the parameter by
            ``lr * weight_decay`` instead.
        foreach (bool, optional): Whole groups of tensors at once. None, the default, does so
            for tensors of a dense native type. Results are equal.

    Raises ValueError naming the argument, its value and the rule; RuntimeError for sparse
    gradients.
    Source: tf.compat.v1.train.RMSPropOptimizer.
    """

    def __init__(self, params, lr=0.016, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.,
                 decoupled_weight_decay=False, foreach=None):
        for name, value, most in (('lr', lr, None), ('alpha', alpha, 1), ('eps', eps, None),
                                  ('momentum', momentum, 1), ('weight_decay', weight_decay, None)):
            if not value >= 0 or most is not None and value >= most:
                rule = 'at least 0' + ('' if most is None else f' and below {most}')
                raise ValueError(f'{name}={value!r} must be {rule}')
        super().__init__(params, dict(
            lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay, foreach=foreach))

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters once; gives what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in self._by_kind(group):
                tensors = self._tensors(params)
                self._update(group, tensors[0])(*tensors, **{key: group[key] for key in (
                    'lr', 'alpha', 'eps', 'momentum', 'weight_decay', 'decoupled_weight_decay')})
        return loss

    @staticmethod
    def _by_kind(group):
        """Parameters with a gradient, by device and type, as foreach operations need them."""
        kinds = defaultdict(list)
        for param in group['params']:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError('RMSpropTF takes dense gradients only')
            kinds[param.device, param.dtype, param.grad.dtype].append(param)
        return kinds.values()

    def _tensors(self, params):
        squares, steps = [], []
        for param in params:
            state = self.state[param]
            if not state:
                state['square_avg'] = torch.ones_like(
                    param, memory_format=torch.preserve_format)
                state['momentum_buffer'] = torch.zeros_like(
                    param, memory_format=torch.preserve_format)
            squares.append(state['square_avg'])
            steps.append(state['momentum_buffer'])
        return [[local(tensor) for tensor in tensors] for tensors in
                (params, [param.grad for param in params], squares, steps)]

    @staticmethod
    def _update(group, params):
        """The function that updates parameters of one kind."""
        together = group['foreach']
        if together is None:
            together = all(type(param) in (torch.Tensor, torch.nn.Parameter) for param in params)
        if not together:
            return _update_each
        return _update_in_parts if params[0].is_cpu else _update_together


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' share of a sharded tensor, in place; other tensors as they are.

    What an update does to each element by itself needs no other share, and operations on many
    tensors at once take no mixture of both kinds.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _update_each(params, grads, squares, steps, *, lr, alpha, eps, momentum, weight_decay,
                 decoupled_weight_decay) -> None:
    for param, grad, square, step in zip(params, grads, squares, steps, strict=True):
        if weight_decay and decoupled_weight_decay:
            param.mul_(1 - lr * weight_decay)
        elif weight_decay:
            grad = grad.add(param, alpha=weight_decay)
        square.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        step.mul_(momentum).addcdiv_(grad, square.add(eps).sqrt_(), value=lr)
        param.sub_(step)


# Elements whose update a core's cache holds with all that belongs to them.
CACHED = 2 ** 14


def _update_in_parts(params, grads, squares, steps, **rule) -> None:
    """``_update_together`` for a few tensors at a time: its passes then find them in the cache.

    For CPUs; an accelerator is faster the more it is given at once.
    """
    start = elements = 0
    for end, param in enumerate(params, start=1):
        elements += param.numel()
        if elements >= CACHED or end == len(params):
            part = slice(start, end)
            _update_together(params[part], grads[part], squares[part], steps[part], **rule)
            start, elements = end, 0


def _update_together(params, grads, squares, steps, *, lr, alpha, eps, momentum, weight_decay,
                     decoupled_weight_decay) -> None:
    if weight_decay and decoupled_weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    elif weight_decay:
        grads = torch._foreach_add(grads, params, alpha=weight_decay)
    torch._foreach_mul_(squares, alpha)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - alpha)
    roots = torch._foreach_add(squares, eps)
    torch._foreach_sqrt_(roots)
    torch._foreach_mul_(steps, momentum)
    torch._foreach_addcdiv_(steps, grads, roots, value=lr)
    torch._foreach_sub_(params, steps)
