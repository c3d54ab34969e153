"""What a config of the tests imports by name, to compare runs of one and of several processes.

Imported in the runs alone: it makes float64 PyTorch's default for the whole process, so that
another order of summation shows as 1e-15 and a real difference cannot hide behind rounding.
"""
import json
import time
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS
from mmpretrain.models import ClsDataPreprocessor
from torch.distributed.tensor import DTensor

torch.set_default_dtype(torch.float64)


@MODELS.register_module()
class Float64Preprocessor(ClsDataPreprocessor):
    """mmpretrain's own gives float32, whatever the default is."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return {**data, 'inputs': data['inputs'].double()}


@HOOKS.register_module()
class JointLossHook(Hook):
    """Write the loss of each joint batch; the log has that of the first process' share."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        all_reduce(loss, op='mean')
        self.losses.append(loss.item())

    def after_train(self, runner):
        if is_main_process():
            Path(runner.work_dir, 'losses.json').write_text(json.dumps(self.losses))


@HOOKS.register_module()
class HoldOnceHook(Hook):
    """Let the second process stand still before a step, once, until somebody kills it."""

    def __init__(self, step: int, marker: str):
        self.step, self.marker = step, Path(marker)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter == self.step and not self.marker.exists():
            self.marker.write_text('')
            time.sleep(600)


@HOOKS.register_module()
class SharesHook(Hook):
    """Count the elements that this process holds of a sharded run, at its end."""
    priority = 'LOWEST'

    def after_train(self, runner):
        def count(tensors):
            return sum(tensor.to_local().numel() for tensor in tensors
                       if isinstance(tensor, DTensor))
        average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        state = runner.optim_wrapper.optimizer.state.values()
        torch.save(dict(
            parameters=count(runner.model.parameters()),
            averages=count(average.ema_model.parameters()),
            optimizer=count(tensor for each in state for tensor in each.values()),
        ), Path(runner.work_dir, f'shares_{get_rank()}.pth'))
