"""Several processes without CUDA."""
from mmengine.model import MMDistributedDataParallel

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
