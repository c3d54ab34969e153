"""Averaged weights with TensorFlow's decay."""
import torch
from mmengine.model import BaseAveragedModel

from mmeffnet.optim.rmsprop import local
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
        interval (int): Calls for one update, which is made at the last of them: set it to the
            number of batches whose gradients are accumulated. Defaults to 1.
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
        super().__init__(model, interval, device, update_buffers)
        self.decay, self.ramp = decay, ramp

    def rate(self, steps: int) -> float:
        """What MMEngine calls momentum: the share of the new weights at an update."""
        ramped = (1 + steps) / (10 + steps) if self.ramp else 1.
        return 1 - min(self.decay, ramped)

    def avg_func(self, averaged_param, source_param, steps) -> None:
        averaged_param.lerp_(source_param, self.rate(int(steps)))

    @torch.no_grad()
    def update_parameters(self, model) -> None:
        """One update, of all tensors at once; results are those of MMEngine's loop."""
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        calls = int(self.steps) + 1
        floats = [key for key, tensor in self.avg_parameters.items()
                  if tensor.dtype.is_floating_point]
        counters = self.avg_parameters.keys() - set(floats)
        start = calls <= self.interval
        for key in self.avg_parameters if start else counters:
            self.avg_parameters[key].data.copy_(source[key].data)
        if not start and calls % self.interval == 0:
            average = [local(self.avg_parameters[key].data) for key in floats]
            weights = [local(source[key].data).to(mine.device) for key, mine in
                       zip(floats, average, strict=True)]
            torch._foreach_lerp_(average, weights, self.rate(calls // self.interval - 1))
        if not self.update_buffers:
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.data.copy_(theirs.data)
        self.steps += 1
