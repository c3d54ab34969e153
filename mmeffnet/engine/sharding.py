"""Training of networks whose weights and optimizer state no device shall hold alone.

MMEngine's own strategy for it wraps the model in PyTorch's first FullyShardedDataParallel, which
refuses to run without an accelerator. Here PyTorch's ``fully_shard`` is used instead: the
parameters become distributed tensors, and everything else stays as it is.
"""
import time
from collections.abc import Callable

import mmengine
import torch
from mmengine._strategy import DDPStrategy, SingleDeviceStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner import FlexibleRunner
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmeffnet.engine.parallel import share_of
from mmeffnet.engine.saving import WHOLE_FILES
from mmeffnet.registry import RUNNERS, STRATEGIES

# Parts of a checkpoint that hold distributed tensors.
SHARDED = ('state_dict', 'ema_state_dict', 'optimizer', 'gradients')


@STRATEGIES.register_module()
class ShardedStrategy(DDPStrategy):
    """Weights, gradients, optimizer state and averaged weights split over all processes.

    This is FSDP, or the third stage of ZeRO: each residual block is gathered when it is its
    turn, forward and backward, and the rest of the model as a whole. Checkpoints are those of
    any other run, with whole tensors, so that a run may go on with another number of
    processes, or unsharded. In a run of one process nothing is split. Mixed precision is the
    optimizer wrapper's.

    Args:
        sync_bn, kwargs: As for MMEngine's ``DDPStrategy``.
    """

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        # Not at the top: the tools tell a wrong path at once, without loading models.
        from mmeffnet.models.blocks import ResidualBlock
        from mmeffnet.models.sync_bn import synchronise_on_host
        if not self.distributed:
            return SingleDeviceStrategy._wrap_model(self, model)
        device = torch.device(get_device()).type
        model = self.convert_model(model.to(device))
        if device == 'cpu':
            model = synchronise_on_host(model)
        mesh = init_device_mesh(device, (self.world_size, ))
        # Sharded again after each forward pass, the root too: whoever looks at the parameters
        # between steps, as averaging does, shall see the shards.
        for module in model.modules():
            if isinstance(module, ResidualBlock):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        for module in model.modules():
            module.register_load_state_dict_pre_hook(_split)
        # PyTorch refuses to copy what it shards.
        model.__deepcopy__ = lambda memo: tensors_of(model)
        return model

    def model_state_dict(self) -> dict:
        """Distributed tensors still: hooks change the checkpoint before it is put together."""
        return self.model.state_dict()

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True,
                        save_param_scheduler: bool = True, extra_ckpt: dict | None = None,
                        callback: Callable | None = None) -> None:
        """Write a checkpoint of whole tensors; every process has to call it."""
        checkpoint = dict(state_dict=self.model_state_dict())
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        checkpoint.update(extra_ckpt or {})
        checkpoint.setdefault('meta', {}).update(
            seed=self.seed, time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            mmengine=mmengine.__version__)
        if callback is not None:
            callback(checkpoint)
        keep = is_main_process()
        for part in SHARDED:  # in the same order everywhere: each tensor is a collective
            if part in checkpoint:
                checkpoint[part] = _whole(checkpoint[part], keep)
        if keep:
            there = None if '://' in filename else dict(backend=WHOLE_FILES)
            save_checkpoint(checkpoint, filename, backend_args=there)

    def load_checkpoint(self, filename: str, **kwargs) -> dict:
        """As MMEngine's, on the CPU: a device may not hold all of it."""
        return super().load_checkpoint(filename, **{**kwargs, 'map_location': 'cpu'})

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of an unsharded optimizer; of each tensor this process' share."""
        saved, own = ([item for group in groups for item in group['params']] for groups in
                      (state_dict['param_groups'], self.optim_wrapper.optimizer.param_groups))
        params = dict(zip(saved, own))  # PyTorch says it where they do not match
        state = {index: {name: share_of(value, params.get(index)) for name, value in values.items()}
                 for index, values in state_dict['state'].items()}
        super().load_optim_state_dict({**state_dict, 'state': state})


@RUNNERS.register_module()
class ShardedRunner(FlexibleRunner):
    """MMEngine's runner for strategies, where it differs from its ``Runner`` made like that one.

    The model is built at once, so that the tools can check it before the start; hooks get
    ready before a checkpoint is loaded, so that averaged weights are there to resume; and a
    checkpoint says the epoch that its hook says. FlexibleRunner counts one epoch more in a
    checkpoint that validation has written again for a new best score.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = self.strategy.build_model(self.model)
        self._hooks_ready, self._meta = False, {}

    def load_or_resume(self):
        self.call_hook('before_run')
        self._hooks_ready = True
        super().load_or_resume()

    def save_checkpoint(self, *args, meta: dict | None = None, **kwargs) -> None:
        self._meta = dict(meta or {})
        super().save_checkpoint(*args, meta=meta, **kwargs)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._meta)
        if fn_name == 'before_run' and self._hooks_ready:
            self._hooks_ready = False  # called already for this run
            return
        super().call_hook(fn_name, **kwargs)


def tensors_of(module: nn.Module) -> nn.Module:
    """A copy of the tensors of a module under their names, without what computes with them."""
    copy = nn.Module()
    for name, tensor in module._parameters.items():
        copy.register_parameter(name, tensor if tensor is None else nn.Parameter(
            tensor.detach().clone(), requires_grad=tensor.requires_grad))
    for name, tensor in module._buffers.items():
        copy.register_buffer(name, tensor if tensor is None else tensor.clone(),
                             persistent=name not in module._non_persistent_buffers_set)
    for name, child in module.named_children():
        copy.add_module(name, tensors_of(child))
    copy.register_load_state_dict_pre_hook(_split)
    return copy


def _split(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Before loading: of each whole tensor take this process' share."""
    for name, param in module._parameters.items():
        if prefix + name in state_dict:
            state_dict[prefix + name] = share_of(state_dict[prefix + name], param)


def _whole(value, keep: bool):
    """Put distributed tensors together on the CPU; all processes take part, those that keep get."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, torch.Tensor):
        return value.cpu() if keep else None
    if isinstance(value, dict):
        # New containers: these are the live ones of the optimizer.
        return {key: _whole(item, keep) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item, keep) for item in value]
    return value
