"""Steps that are not finite: what they began with, and no weights that have seen them."""
import logging
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch.distributed.tensor import DTensor

from mmeffnet.engine.accumulation import waiting
from mmeffnet.engine.checkpoint import bare_model
from mmeffnet.engine.parallel import in_any_process
from mmeffnet.engine.state import random_state, set_random_state
from mmeffnet.errors import RunError
from mmeffnet.files import whole
from mmeffnet.optim.update import local
from mmeffnet.registry import HOOKS


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """End a run whose loss or gradients are not finite, before they reach the weights.

    The message names iteration, learning rate and the first layer with an output that is not
    finite; the batch is written to the work dir. Loss scaling of float16 leaves out such
    steps by itself, and only the loss is looked at then.

    Args:
        max_skips (int): How many such steps are left out in a run, before and after it is resumed,
            each named in the log, with BatchNorm statistics as before; the next ends it.
            Defaults to 0.
    """
    priority = 'VERY_HIGH'

    def __init__(self, max_skips: int = 0):
        if not isinstance(max_skips, int) or max_skips < 0:
            raise ValueError(f'max_skips={max_skips!r} must be at least 0, a whole number')
        self.max_skips, self.skipped = max_skips, 0
        self._runner = self._handle = None
        self._batch = self._suspect = None
        self._buffers: list[torch.Tensor] = []
        self._spoiled = self._left_out = self._taken = False

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.max_skips:
            checkpoint['non_finite'] = dict(skipped=self.skipped)
            if waiting(runner.optim_wrapper):  # else the next batch begins a step
                checkpoint['non_finite'].update(
                    buffers=[buffer.cpu() for buffer in self._buffers], spoiled=self._spoiled)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and self.max_skips:
            found = checkpoint.get('non_finite', {})
            self.skipped = found.get('skipped', 0)
            self._buffers, self._spoiled = found.get('buffers', []), found.get('spoiled', False)

    def before_train(self, runner) -> None:
        self._runner = runner
        if isinstance(runner.optim_wrapper, OptimWrapper):  # not several, nor DeepSpeed's
            self._handle = runner.optim_wrapper.optimizer.register_step_pre_hook(self._check)

    def after_train(self, runner) -> None:
        if self._handle:
            self._handle.remove()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._batch, self._taken = data_batch, False
        # A step begins, or goes on from a checkpoint that was written with max_skips=0.
        if self.max_skips and not (waiting(runner.optim_wrapper) and self._buffers):
            self._buffers = [buffer.clone() for buffer in runner.model.buffers()]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        left_out, self._left_out = self._left_out, False
        if not self._handle or left_out:
            return
        loss = torch.as_tensor((outputs or {}).get('loss', 0.)).detach()
        finite = torch.isfinite(loss).all()
        if self.max_skips and waiting(runner.optim_wrapper):
            if not finite:  # the step that it belongs to is still to come
                self._suspect, self._spoiled = data_batch, True
        elif not finite:
            self._leave_out(f'the loss is {float(loss)}')
        elif self._spoiled:  # loss scaling has left out the step without a look of ours
            self._leave_out('the loss of a batch of this step is not finite')

    @torch.no_grad()
    def _check(self, optimizer, *_) -> None:
        """Called before each step of the optimizer, with the gradients that it will use."""
        found = getattr(optimizer, 'found_inf', None)
        if found is not None:  # a fused one with loss scaling, which leaves out steps by itself
            self._taken = not found
            if self._taken:
                self._suspect, self._spoiled = None, False
            return
        params = [p for group in optimizer.param_groups for p in group['params']
                  if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([local(p.grad) for p in params])
                            or [torch.zeros(())])
        if any(isinstance(p, DTensor) for p in params):
            all_reduce(norms)  # each process has looked at its share
        # Gradients are those of all processes by now, and what a loss was is not.
        spoiled = bool(self.max_skips) and in_any_process(self._spoiled)
        if torch.isfinite(norms).all():
            if not spoiled:
                self._suspect, self._taken = None, True
                return
            reason = 'the loss of a batch of this step is not finite'
        else:
            first = params[int(torch.nonzero(~torch.isfinite(norms))[0])]
            name = next(name for name, p in self._runner.model.named_parameters() if p is first)
            reason = f'the gradient of {name} is not finite'
        self._leave_out(reason)
        for param in params:
            param.grad = None  # optimizers pass such parameters over
        self._left_out = True

    def _leave_out(self, reason: str) -> None:
        """Count a step and undo what it has done to the statistics, or end the run."""
        if self.skipped >= self.max_skips:
            self._end(reason)
        self.skipped += 1
        # An infinite loss may have finite gradients, and is seen once these are in the weights.
        what = 'Step taken with finite gradients, counted as' if self._taken else 'Step left out,'
        print_log(f'{what} {self.skipped} of at most {self.max_skips}: '
                  f'{self._describe(reason)}', 'current', level=logging.WARNING)
        if not self._taken:
            for buffer, before in zip(self._runner.model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self._suspect, self._spoiled = None, False

    def _end(self, reason: str) -> None:
        more = f' ({self.skipped} steps were left out before)' if self.skipped else ''
        raise RunError(
            f'{self._describe(reason)}{more}. Nothing of it has reached a checkpoint: go on with '
            '--resume and clipped gradients (optim_wrapper.clip_grad.max_norm), float32, or up to '
            'N such steps left out (default_hooks.non_finite.max_skips=N), or begin a run with '
            'load_from=CHECKPOINT and a smaller learning rate, which --resume would not take')

    def _describe(self, reason: str) -> str:
        runner = self._runner
        rates = sorted({group['lr'] for group in runner.optim_wrapper.optimizer.param_groups})
        rate = f'{rates[-1]:.4g}' if len(rates) == 1 else f'{rates[0]:.4g} to {rates[-1]:.4g}'
        batch = self._batch if self._suspect is None else self._suspect
        rank = f'_rank_{get_rank()}' if get_world_size() > 1 else ''
        path = Path(runner.work_dir, f'non_finite_iter_{runner.iter + 1}{rank}.pth')
        with whole(path) as part:
            torch.save(plain_batch(batch), part)
        drawn = random_state()
        where = first_non_finite(runner, batch)
        set_random_state(drawn)  # whatever was looked at, the run goes on with the same draws
        return (f'iteration {runner.iter + 1} (epoch {runner.epoch + 1}), learning rate {rate}: '
                f'{reason}; {where}; the batch is in {path}')


@torch.no_grad()
def first_non_finite(runner, batch) -> str:
    """Which layer of the runner's model first gives an output that is not finite, as words."""
    model = bare_model(runner.model)
    for name, param in model.named_parameters():
        if not torch.isfinite(param).all():
            return f'the weights {name} are not finite themselves'
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()
             if not any(True for _ in module.children())}

    def look(module, inputs, output) -> None:
        for tensor in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(tensor, torch.Tensor) and not found and not torch.isfinite(tensor).all():
                found.append(names[module])

    handles = [module.register_forward_hook(look) for module in names]
    try:
        data = model.data_preprocessor(batch, True)
        inputs = data.get('inputs') if isinstance(data, dict) else None
        if isinstance(inputs, torch.Tensor) and not torch.isfinite(inputs).all():
            return 'the images of the batch are not finite themselves'
        with runner.optim_wrapper.optim_context(model):
            # A batch is a dict, or a list of what data sets give without names.
            named = isinstance(data, dict)
            model(*(() if named else data), **(data if named else {}), mode='loss')
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f'the first layer with such an output is {found[0]}'
    return 'the outputs of all layers are finite'


def plain_batch(value):
    """A batch as tensors, numbers, strings and containers, which load with weights only."""
    if isinstance(value, BaseDataElement):
        return {key: plain_batch(item) for key, item in value.all_items()}
    if isinstance(value, dict):
        return {str(key): plain_batch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_batch(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, bytes):
        return torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else value.decode()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return torch.as_tensor(value) if hasattr(value, '__array__') else repr(value)
