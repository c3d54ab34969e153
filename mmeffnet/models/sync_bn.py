"""BatchNorm over the batches of all processes, on any device and backend.

PyTorch's own ``nn.SyncBatchNorm`` refuses CPUs.
"""
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet.models.formulas import first_order

BACKWARD = torch.ops.aten.native_batch_norm_backward


class HostSyncBatchNorm(_BatchNorm):
    """Synchronised BatchNorm in plain PyTorch operations, for any device and backend.

    (N, C, ...) to the same shape. While training in several processes the mean and the
    variance are those of the joint batch, whose parts may differ in size; otherwise this is
    ``nn.BatchNorm2d``. Statistics are in float32 at least. ``nn.SyncBatchNorm`` computes the same
    on accelerators; it refuses CPUs, and DistributedDataParallel refuses it there.

    Raises ValueError for an input without channels or without values, and RuntimeError for
    gradients of gradients over several processes.
    """

    def _check_input_dim(self, input) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected (N, C, ...), got shape {tuple(input.shape)}')

    def forward(self, x):
        if not joined(self):
            return super().forward(x)
        self._check_input_dim(x)
        return _JointNorm.apply(x, self.weight, self.bias, self)


class _JointNorm(torch.autograd.Function):
    """BatchNorm by the statistics of all processes."""

    @staticmethod
    def forward(ctx, x, weight, bias, norm):
        mean, invstd, count = joint_statistics(x, norm)
        ctx.save_for_backward(x, weight, mean, invstd, count)
        ctx.norm = norm
        return normalise(x, (mean, variance(invstd, norm.eps)), weight, bias, norm.eps)

    @staticmethod
    def backward(ctx, grad):
        first_order('train in one process, or with BatchNorm that is not synchronised')
        needed = ctx.needs_input_grad[:3]
        grads = joint_gradients(grad, *ctx.saved_tensors, ctx.norm)
        return *(g if n else None for g, n in zip(grads, needed)), None


def joined(norm: nn.Module) -> bool:
    """Whether a layer's statistics are, as it is now, those of several processes."""
    return (isinstance(norm, (nn.SyncBatchNorm, HostSyncBatchNorm)) and norm.training
            and dist.is_initialized() and dist.get_world_size(_group(norm)) > 1)


def _group(norm):
    return getattr(norm, 'process_group', None)


def joint_statistics(x: torch.Tensor, norm: nn.Module) -> tuple[torch.Tensor, ...]:
    """Mean and 1 / standard deviation of each channel over all processes, and the values of one.

    x: (N, C, ...). (C, ), (C, ) and (1, ), in float32 at least. Updates the running statistics of
    ``norm`` as ``nn.BatchNorm2d`` does.
    """
    channels = x.shape[1]
    if not x.numel():
        raise ValueError(f'BatchNorm needs values to train, got shape {tuple(x.shape)}')
    # Given statistics in float32, these are not rounded to those of half precision.
    wide = x.new_zeros(channels, dtype=torch.promote_types(x.dtype, torch.float32))
    mean, var = torch.batch_norm_update_stats(x, wide, wide.clone(), 0.)
    own = torch.cat([mean, var, wide.new_full((1, ), x.numel() // channels)])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(_group(norm)))]
    dist.all_gather(parts, own, group=_group(norm))
    means, variances, counts = torch.stack(parts).split([channels, channels, 1], dim=1)
    count = counts.sum(0)
    # Not from sums of squares: their difference is lost where the mean is large.
    mean = (means * counts).sum(0) / count
    var = ((variances + (means - mean).square()) * counts).sum(0) / count
    _track(norm, mean, var * (count / (count - 1)))
    return mean, torch.rsqrt(var + norm.eps), count


def _track(norm, mean, unbiased) -> None:
    if not norm.track_running_stats:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)


def joint_gradients(grad, x, weight, mean, invstd, count, norm) -> tuple[torch.Tensor, ...]:
    """Gradients of the input, of this process, and of weight and bias, from the own batch alone.

    grad: of the normalised ``x``. DistributedDataParallel adds up those of weight and bias.
    """
    scale = invstd.new_ones(invstd.shape) if weight is None else weight.to(invstd.dtype)
    given, by_weight, by_bias = BACKWARD(grad, x, scale, mean, variance(invstd, norm.eps), mean,
                                         invstd, False, norm.eps, [True, True, True])
    # Mean and variance depend on all inputs, and so do all outputs on this one.
    sums = torch.cat([by_weight, by_bias])
    dist.all_reduce(sums, group=_group(norm))
    by_scale, by_shift = (sums / count).chunk(2)
    slope = scale * invstd.square() * by_scale
    offset = scale * invstd * by_shift - slope * mean
    shape = (-1, *[1] * (x.dim() - 2))
    given.sub_(offset.view(shape)).addcmul_(x, slope.view(shape), value=-1)
    return given, by_weight, by_bias


def normalise(x, statistics, weight, bias, eps):
    """BatchNorm of known mean and variance; these may be finer than ``x`` and the affine are."""
    wide = torch.promote_types(x.dtype, torch.float32)
    values = (None if value is None else value.to(wide) for value in (*statistics, weight, bias))
    return F.batch_norm(x, *values, False, 0.0, eps)


def variance(invstd: torch.Tensor, eps: float) -> torch.Tensor:
    """Of 1 / standard deviation."""
    return invstd.pow(-2) - eps


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
