"""BatchNorm over the batches of all processes, where PyTorch's own needs an accelerator."""
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, and of its gradient on the way back."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        # Each process' loss depends on the total, and so do all of them on this tensor.
        return _Sum.forward(ctx, gradient.contiguous())


class HostSyncBatchNorm(_BatchNorm):
    """Synchronised BatchNorm in plain PyTorch operations, for any device and backend.

    (N, C, ...) to the same shape. While training in several processes the mean and the
    variance are those of the joint batch, whose parts may differ in size; otherwise this is
    ``nn.BatchNorm2d``. Variances are sums of squared distances from the joint mean, in float32
    at least. ``nn.SyncBatchNorm`` computes the same on accelerators, where it is faster;
    it refuses CPUs, and DistributedDataParallel refuses it there.

    Raises ValueError for an input without channels, and for one value per channel in all.
    """

    def _check_input_dim(self, input) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected (N, C, ...), got shape {tuple(input.shape)}')

    def forward(self, x):
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        self._check_input_dim(x)
        wide = x if x.dtype == torch.float64 else x.float()
        others = [0, *range(2, x.dim())]
        sums = _Sum.apply(torch.cat([wide.sum(others),
                                     wide.new_full((1, ), x.numel() // x.shape[1])]))
        total = sums[-1]
        if total <= 1:
            raise ValueError('BatchNorm needs more than one value per channel to train')
        mean = sums[:-1] / total
        centred = wide - _per_channel(mean, x)
        var = _Sum.apply((centred * centred).sum(others)) / total
        self._track(mean.detach(), var.detach(), total.detach())
        scale = torch.rsqrt(var + self.eps)
        if not self.affine:
            return (centred * _per_channel(scale, x)).to(x.dtype)
        out = centred * _per_channel(scale * self.weight, x) + _per_channel(self.bias, x)
        return out.to(x.dtype)

    def _track(self, mean, var, total) -> None:
        """Update the running statistics as ``nn.BatchNorm2d`` does."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = var * (total / (total - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def _per_channel(values, x):
    return values.view(-1, *[1] * (x.dim() - 2))


def synchronise_on_host(module: nn.Module) -> nn.Module:
    """Replace every ``nn.SyncBatchNorm`` by a :class:`HostSyncBatchNorm` of the same tensors."""
    for name, child in module.named_children():
        setattr(module, name, synchronise_on_host(child))
    if not isinstance(module, nn.SyncBatchNorm):
        return module
    new = HostSyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine,
                            module.track_running_stats)
    new._parameters, new._buffers = module._parameters, module._buffers
    return new.train(module.training)
