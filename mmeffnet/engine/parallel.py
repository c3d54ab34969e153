"""Several processes: without CUDA, and with tensors of which each holds a share."""
import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import MMDistributedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor

from mmeffnet.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class HostDataParallel(MMDistributedDataParallel):
    """MMEngine's data parallel wrapper for models on a CPU, synchronised BatchNorm included.

    Takes the arguments of ``MMDistributedDataParallel``. ``nn.SyncBatchNorm``, which PyTorch
    refuses here, is replaced by a layer that computes the same; this is the first place after
    MMEngine has put it in for ``sync_bn='torch'``.
    """

    def __init__(self, module, **kwargs):
        # Not at the top: the tools tell a wrong path at once, without loading models.
        from mmeffnet.models.sync_bn import synchronise_on_host
        super().__init__(module=synchronise_on_host(module), **kwargs)


def in_any_process(flag: bool) -> bool:
    """Whether it is so in any process; each has to ask."""
    if get_world_size() == 1:
        return flag
    found = torch.tensor(float(flag))
    all_reduce(found, 'max')
    return bool(found)


def share_of(value, param: torch.Tensor):
    """A whole tensor distributed as a parameter is, and anything of another kind or shape as is."""
    if (not isinstance(param, DTensor) or not isinstance(value, torch.Tensor)
            or isinstance(value, DTensor) or value.shape != param.shape):
        return value
    # Every process has read the file: nothing has to be sent.
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements,
                             src_data_rank=None)


def joint_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """A copy of a gradient for all processes, in the midst of a step of several batches.

    Data parallel processes have but their own until the step; those of shards are joint.
    """
    gradient = gradient.clone()
    if not isinstance(gradient, DTensor):
        all_reduce(gradient, 'mean')
    return gradient
