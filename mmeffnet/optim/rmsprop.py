"""RMSProp as TensorFlow computes it, which the published networks were trained with."""
from collections import defaultdict

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmeffnet.optim.gathered import Gathered
from mmeffnet.optim.single_pass import all_at_once, numbers_of, single_pass, split
from mmeffnet.registry import OPTIMIZERS

# Elements from which on a parameter is updated by itself on a CPU: calls cost little beside it, and
# PyTorch shares it out among cores.
LARGE = 2 ** 15
PLAIN = {torch.Tensor, torch.nn.Parameter}
# What each parameter has in the optimizer's state.
SQUARE, STEP = 'square_avg', 'momentum_buffer'
RULE = 'lr', 'alpha', 'eps', 'momentum', 'weight_decay', 'decoupled_weight_decay'
# Of timm's RMSpropTF, with the value that leaves TensorFlow's rule as it is.
VARIATIONS = dict(lr_in_momentum=True, centered=False, caution=False, corrected_weight_decay=False)


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
            for tensors of a dense native type. Results are equal. On a CPU the state of small
            parameters then lies in common tensors, of which the state dict holds views.

    Takes the saved state of timm's RMSpropTF, too. Raises ValueError naming the argument, its
    value and the rule, or what tells that a saved state is that of another rule; RuntimeError for
    sparse gradients.
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
        self._gathered, self._compiled = {}, False

    def compile(self) -> None:
        """Have steps on a CPU made in one pass over memory, compiled at the first by torch.compile.

        As ``nn.Module.compile`` does it: in place, state and keys stay as they are. Results differ
        by rounding. Nothing changes on an accelerator, and with ``foreach=False``.
        """
        self._compiled = True

    def __getstate__(self):
        return {**super().__getstate__(), '_compiled': self._compiled}

    def __setstate__(self, state):
        for number, group in enumerate(state['param_groups']):
            if 'decoupled_decay' in group:  # timm's
                group.setdefault('decoupled_weight_decay', group['decoupled_decay'])
            group.setdefault('foreach', None)
            _check_rule(number, group)
        super().__setstate__(state)
        self.__dict__.setdefault('_compiled', False)
        self._gathered = {}  # of an optimizer that was copied or loaded as a whole

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters once; gives what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike = self._alike()
        before, self._gathered = self._gathered, {}
        vectors, numbers = [], []  # of large parameters, for the compiler
        for (device, together, rule, _), params in alike.items():
            rule = dict(zip(RULE, rule, strict=True))
            if together is None:
                together = {*map(type, params)} <= PLAIN
            if not together:
                _update_each(*self._tensors(params), **rule)
            elif device.type != 'cpu':
                _update_together(*self._tensors(params), **rule)
            else:
                small = [param for param in params if param.numel() < LARGE]
                if small:
                    self._update_small(small, before, rule)
                large = [param for param in params if param.numel() >= LARGE]
                tensors = self._tensors(large)
                if self._compiled:
                    found, tensors = split(tensors)
                    vectors += found
                    numbers += [numbers_of(**rule)] * len(found)
                _update_each(*tensors, **rule)
        if vectors:
            all_at_once()(*map(list, zip(*vectors, strict=True)), torch.stack(numbers))
        for gathered in before.values():
            gathered.leave((), self.state)
        return loss

    def _alike(self):
        """Parameters with a gradient, by what foreach operations need and the rule they follow.

        Of all groups: MMEngine's ``paramwise_cfg`` makes one of each parameter.
        """
        kinds = defaultdict(list)
        for group in self.param_groups:
            rule = tuple(group[key] for key in RULE)
            for param in group['params']:
                grad = param.grad
                if grad is None:
                    continue
                if grad.is_sparse:
                    raise RuntimeError('RMSpropTF takes dense gradients only')
                types = param.dtype, grad.dtype
                kinds[param.device, group['foreach'], rule, types].append(param)
        return kinds

    def _update_small(self, params, before, rule):
        """Alike, on a CPU: as one, if their state can be gathered. before: of the last step."""
        tensors = self._tensors(params)
        gathered = before.pop(params[0], None)
        if gathered is not None and not gathered.holds(params, *tensors[2:]):
            gathered.leave(params, self.state)
            gathered = None
        if gathered is None and Gathered.possible(params, *tensors[1:]):
            gathered = Gathered(params, [self.state[param] for param in params], (SQUARE, STEP))
        if gathered is None:
            _update_together(*tensors, **rule)
        else:
            self._gathered[params[0]] = gathered
            _update_gathered(gathered, *tensors[:2], self._compiled, **rule)

    def _tensors(self, params):
        squares, steps = [], []
        for param in params:
            state = self.state[param]
            if SQUARE not in state:
                state[SQUARE] = torch.ones_like(param, memory_format=torch.preserve_format)
            if STEP not in state:  # timm's has none without momentum
                state[STEP] = torch.zeros_like(param, memory_format=torch.preserve_format)
            squares.append(state[SQUARE])
            steps.append(state[STEP])
        return [list(map(local, tensors)) for tensors in
                (params, [param.grad for param in params], squares, steps)]


def _check_rule(number: int, group: dict) -> None:
    """ValueError for a saved parameter group of an optimizer that computes something else."""
    found = [f'{key!r} is missing' for key in RULE if key not in group]
    found += [f'{key}={group[key]!r}' for key, plain in VARIATIONS.items()
              if group.get(key, plain) != plain
              # Without momentum the rate scales the same step before or after.
              and (key != 'lr_in_momentum' or group.get('momentum'))]
    if found:
        raise ValueError(f'param_groups[{number}] was saved by an optimizer of another rule than '
                         f"RMSpropTF's ({', '.join(found)}): load the weights alone and start "
                         'with a new optimizer')


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' share of a sharded tensor, in place; other tensors as they are.

    What an update does to each element by itself needs no other share, and operations on many
    tensors at once take no mixture of both kinds.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _update_each(params, grads, squares, steps, *, lr, weight_decay, decoupled_weight_decay,
                 **rule) -> None:
    for param, grad, square, step in zip(params, grads, squares, steps, strict=True):
        if weight_decay and decoupled_weight_decay:
            param.mul_(1 - lr * weight_decay)
        elif weight_decay:
            grad = grad.add(param, alpha=weight_decay)
        _advance(grad, square, step, lr=lr, **rule)
        param.sub_(step)


def _update_gathered(gathered, params, grads, compiled, *, lr, weight_decay,
                     decoupled_weight_decay, **rule) -> None:
    torch._foreach_copy_(gathered.grads, grads)
    if weight_decay and decoupled_weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    elif weight_decay:
        torch._foreach_add_(gathered.grads, params, alpha=weight_decay)
    if compiled:
        numbers = numbers_of(lr=lr, weight_decay=0., decoupled_weight_decay=False, **rule)
        for part in gathered.parts:
            single_pass()(*part, numbers)
    else:
        for part in gathered.parts:
            _advance(*part, lr=lr, **rule)
    torch._foreach_sub_(params, gathered.states[STEP])


def _advance(grad, square, step, *, lr, alpha, eps, momentum) -> None:
    """The step to subtract, of a gradient that has the decay in it."""
    square.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
    step.mul_(momentum).addcdiv_(grad, square.add(eps).sqrt_(), value=lr)


def _update_together(params, grads, squares, steps, *, lr, alpha, eps, momentum, weight_decay,
                     decoupled_weight_decay) -> None:
    """For accelerators, which are faster the more they are given at once."""
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
