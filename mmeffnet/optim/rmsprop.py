"""RMSProp as TensorFlow computes it, which the published networks were trained with."""
from collections import defaultdict

import torch
from torch.optim import Optimizer

from mmeffnet.optim.gathered import Gathered
from mmeffnet.optim.single_pass import all_at_once, numbers_of, split
from mmeffnet.optim.sums import RULE, STEP, SUM, check_rule, have_state
from mmeffnet.optim.update import (
    PLAIN,
    Scratch,
    local,
    update_each,
    update_gathered,
    update_together,
)
from mmeffnet.registry import OPTIMIZERS

# Elements from which on a parameter is updated by itself on a CPU: calls cost little beside it, and
# PyTorch shares it out among cores.
LARGE = 2 ** 16


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

    The state of a parameter has ``momentum_buffer``, the step, and ``square_sum``, which is
    (square + eps) / (1 - alpha): the rule in terms of it is shorter (``mmeffnet.optim.update``);
    ``sum_alpha`` and ``sum_eps`` are those of the sum. In float16 it has room for gradients below
    256, where the square had it for 809: keep such parameters in float32.
    Takes the saved state of timm's RMSpropTF, too, with ``square_avg``, the square. Raises
    ValueError naming the argument, its value and the rule, or what tells that a saved state is that
    of another rule; RuntimeError for sparse gradients.
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
        self._gathered, self._scratch, self._compiled = {}, Scratch(), False

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
            check_rule(number, group)
        super().__setstate__(state)
        self.__dict__.setdefault('_compiled', False)
        # Of an optimizer that was copied or loaded as a whole.
        self._gathered, self._scratch = {}, Scratch()

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
        for device, together, rule, params in alike:
            if together is None:
                together = {*map(type, params)} <= PLAIN
            if not together:
                update_each(*self._tensors(params, rule), self._scratch, **rule)
            elif device.type != 'cpu':
                update_together(*self._tensors(params, rule), **rule)
            else:
                small = [param for param in params if param.numel() < LARGE]
                if small:
                    self._update_small(small, before, rule)
                large = [param for param in params if param.numel() >= LARGE]
                tensors = self._tensors(large, rule)
                if self._compiled:
                    found, tensors = split(tensors)
                    vectors += found
                    numbers += [numbers_of(**rule)] * len(found)
                update_each(*tensors, self._scratch, **rule)
        if vectors:
            all_at_once()(*map(list, zip(*vectors, strict=True)), torch.stack(numbers))
        for gathered in before.values():
            gathered.leave((), self.state)
        return loss

    def _alike(self):
        """Parameters with a gradient, by what foreach operations need and the rule they follow:
        their device, ``foreach``, the rule and a list of them.

        Of all groups: MMEngine's ``paramwise_cfg`` makes one of each parameter.
        """
        kinds = defaultdict(lambda: defaultdict(list))
        for group in self.param_groups:
            of_rule = kinds[group['foreach'], tuple(group[key] for key in RULE)]
            for param in group['params']:
                grad = param.grad
                if grad is None:
                    continue
                if grad.is_sparse:
                    raise RuntimeError('RMSpropTF takes dense gradients only')
                of_rule[param.device, param.dtype, grad.dtype].append(param)
        return [(device, together, _numbers(rule), params)
                for (together, rule), found in kinds.items()
                for (device, *_), params in found.items()]

    def _update_small(self, params, before, rule):
        """Alike, on a CPU: as one, if their state can be gathered. before: of the last step."""
        tensors = self._tensors(params, rule)
        gathered = before.pop(params[0], None)
        if gathered is not None and not gathered.holds(params, *tensors[2:]):
            gathered.leave(params, self.state)
            gathered = None
        if gathered is None and Gathered.possible(params, *tensors[1:]):
            gathered = Gathered(params, [self.state[param] for param in params], (SUM, STEP))
        if gathered is None:
            update_together(*tensors, **rule)
        else:
            self._gathered[params[0]] = gathered
            update_gathered(gathered, *tensors[:2], self._compiled, **rule)

    def _tensors(self, params, rule):
        states = [have_state(self.state[param], param, rule) for param in params]
        return [list(map(local, tensors)) for tensors in
                (params, [param.grad for param in params],
                 [state[SUM] for state in states], [state[STEP] for state in states])]


def _numbers(rule: tuple) -> dict:
    """A group's rule by name; ValueError for an alpha that a scheduler made none."""
    named = dict(zip(RULE, rule, strict=True))
    named['alpha'], named['eps'] = float(named['alpha']), float(named['eps'])
    if not 0 <= named['alpha'] < 1:
        raise ValueError(f'alpha={named["alpha"]!r} must be at least 0 and below 1')
    return named
