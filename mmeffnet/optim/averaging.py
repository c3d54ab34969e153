"""Averaged weights with TensorFlow's decay."""
from numbers import Integral

import torch
from mmengine.model import BaseAveragedModel
from torch import nn

from mmeffnet.optim.update import local
from mmeffnet.registry import MODELS


@MODELS.register_module()
class RampedAverage(BaseAveragedModel):
    """Moving average of weights and BatchNorm statistics, as in the reference recipe.

    average = d * average + (1 - d) * weight, with d = min(decay, (1 + t) / (10 + t)) at
    update t: without the ramp the first epochs would evaluate the initial weights. For
    MMEngine's hook: ``dict(type='EMAHook', ema_type='mmeffnet.RampedAverage', decay=0.9999)``.

    Args:
        model (nn.Module): The model that is averaged.
        decay (float): Share that is kept; 0.9999 in the reference. This is one minus
            what MMEngine calls momentum.
        ramp (bool): Whether the decay ramps up. Defaults to True.
        interval (int): Calls for one update, which is made at the last of them. Defaults to 1;
            for accumulated gradients, StepAveragesHook leaves out the calls between two steps.
        device, update_buffers: As in MMEngine's averaged models, except that the buffers are
            averaged by default.

    Raises ValueError naming the argument, its value and the rule.
    Source: tf.train.ExponentialMovingAverage with num_updates.
    """

    def __init__(self, model, decay=0.9999, ramp=True, interval=1, device=None,
                 update_buffers=True):
        if not 0 <= decay < 1:
            raise ValueError(f'decay={decay!r} must be at least 0, below 1')
        if decay < 0.5:
            raise ValueError(f"decay={decay!r} keeps less than half of the average: if this is "
                             f"MMEngine's momentum, write decay={1 - decay:g}")
        if not isinstance(interval, Integral) or interval < 1:
            raise ValueError(f'interval={interval!r} must be a whole number above 0')
        super().__init__(model, interval, device, update_buffers)
        self.decay, self.ramp = decay, ramp
        self._sources = Sources()
        self._floats, self._others = _kinds(list(map(local, self.avg_parameters.values())))

    def rate(self, steps: int) -> float:
        """What MMEngine calls momentum: the share of the new weights at an update."""
        ramped = (1 + steps) / (10 + steps) if self.ramp else 1.
        return 1 - min(self.decay, ramped)

    def avg_func(self, averaged_param, source_param, steps) -> None:
        averaged_param.lerp_(source_param, self.rate(int(steps)))

    @torch.no_grad()
    def update_parameters(self, model) -> None:
        """One update, of all tensors at once; results are those of MMEngine's loop.

        But a tensor that has several names, as layers of a head that share it, is averaged once.
        """
        averages = list(map(local, self.avg_parameters.values()))
        weights = list(map(local, self._sources.of(model, self.avg_parameters,
                                                   self.update_buffers)))
        calls = int(self.steps) + 1
        start = calls <= self.interval
        if self._floats and not start and calls % self.interval == 0:
            mine, theirs = ([tensors[i] for i in self._floats] for tensors in (averages, weights))
            if len({tensor.device for tensor in (*mine, *theirs)}) > 1:
                theirs = [w.to(m.device) for m, w in zip(mine, theirs, strict=True)]
            torch._foreach_lerp_(mine, theirs, self.rate(calls // self.interval - 1))
        copied = [(averages[i], weights[i])
                  for i in (range(len(averages)) if start else self._others)]
        if not self.update_buffers:
            copied += zip(self.module.buffers(), model.buffers(), strict=True)
        if copied:
            torch._foreach_copy_(*zip(*copied, strict=True))
        self.steps += 1


def _kinds(averages) -> tuple[list[int], list[int]]:
    """Places of the tensors to average and of those to copy, such as counters."""
    floats = [i for i, own in enumerate(averages) if own.is_floating_point()]
    # A state dict holds a view for each name; those without memory here have no address.
    once = {(averages[i].data_ptr() or i, averages[i].shape, averages[i].stride()): i
            for i in floats}
    return [*once.values()], sorted({*range(len(averages))} - {*floats})


class Sources:
    """Tensors of a network by the keys of its state dict, without asking for one each time.

    For B0 that takes about as long as it takes to average them. Copies and files get an empty
    one: what it holds are parts of a network.
    """

    def __init__(self):
        self._state: tuple | None = None

    def __reduce__(self):
        return Sources, ()

    def of(self, model: nn.Module, keys, buffers: bool) -> list[torch.Tensor]:
        """In the order of ``keys``: of the state dict, or without ``buffers`` of the parameters.

        KeyError for one that the network does not have.
        """
        if self._state is None or self._state[0] is not model or self._state[1] != self._state[2]:
            self._state = model, *_children(model), *_places(model, keys)
        hooks, places = self._state[3:]
        if places is None or any(hooks):
            state = model.state_dict() if buffers else dict(model.named_parameters())
            return [state[key] for key in keys]
        return [tensors[name] for tensors, name in places]


def _children(model):
    """What the modules of a network hold, as it changes and as it is."""
    children = [m._modules for m in model.modules() if m._modules]
    return children, [*map(dict, children)]


def _places(model, keys):
    """What may change a state dict, and where each tensor is; None where some class makes a state
    dict of its own."""
    modules = list(model.modules())
    hooks = [found for m in modules for found in (m._state_dict_hooks, m._state_dict_pre_hooks)]
    if any(type(m)._save_to_state_dict is not nn.Module._save_to_state_dict
           # On the object, too.
           or getattr(m.state_dict, '__func__', None) is not nn.Module.state_dict
           for m in modules):
        return hooks, None
    places = {f'{path}.{name}' if path else name: (tensors, name)
              for path, module in model.named_modules(remove_duplicate=False)
              for tensors in (module._parameters, module._buffers) for name in tensors}
    # A hook may have given other keys.
    return hooks, [places.get(key) for key in keys] if places.keys() >= set(keys) else None
