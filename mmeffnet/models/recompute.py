"""Layers that keep less for the backward pass, and compute the rest from it once more.

BatchNorm, Swish and a convolution after another convolution keep three tensors as large as its
output: what it put out, what BatchNorm made of that, and what Swish made of that again. The first
and one mean and variance per channel give the others. The idea is that of Rota Bulo and others,
"In-Place Activated BatchNorm for Memory-Optimized Training of DNNs", 2018, who keep the last of
the three, which Swish does not allow: it has no inverse.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from mmeffnet.models import sync_bn
from mmeffnet.models.conv_gradients import conv_gradients, convolve, wants_fast_gradients
from mmeffnet.models.direct import (
    KNOWN,
    SWISH,
    direct,
    plain_order,
    run,
    silent,
    transformed,
)
from mmeffnet.models.formulas import first_order
from mmeffnet.models.layers import Conv2dSame, layout_of, split_padding

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, sync_bn.HostSyncBatchNorm)
SWISH_BACKWARD = torch.ops.aten.silu_backward.grad_input


class _NormSwish(torch.autograd.Function):
    """Swish of BatchNorm of ``x``, and a convolution of it where there is one; keeps ``x`` alone.

    (N, C, H, W) to the same shape, or to that of the convolution.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, conv_weight, norm: nn.BatchNorm2d, share, conv):
        training, count = norm.training or norm.running_mean is None, None
        # As BatchNorm itself looks at this flag, which may be set on a built layer.
        tracked = norm.track_running_stats or not norm.training
        running = (norm.running_mean, norm.running_var) if tracked else (None, None)
        if sync_bn.joined(norm):
            mean, invstd, count = sync_bn.joint_statistics(x, norm)
            statistics = mean, sync_bn.variance(invstd, norm.eps)
            normed = sync_bn.normalise(x, statistics, weight, bias, norm.eps)
        else:
            normed, mean, invstd = torch.native_batch_norm(
                x, weight, bias, *running, training, share, norm.eps)
        # In eval mode as they are now: a later step may change them.
        fixed = () if training else [value.clone() for value in running]
        ctx.save_for_backward(x, weight, bias, conv_weight, mean, invstd, count, *fixed)
        ctx.norm, ctx.conv = norm, conv
        out = F.silu(normed, inplace=True)
        return out if conv is None else conv._conv_forward(out, conv_weight.detach(), None)

    @staticmethod
    def backward(ctx, grad):
        first_order('build the backbone with memory_efficient=False')
        x, weight, bias, conv_weight, mean, invstd, count, *running = ctx.saved_tensors
        eps, needed, conv_grad = ctx.norm.eps, ctx.needs_input_grad, None
        statistics = running or (mean, sync_bn.variance(invstd, eps))
        normed = sync_bn.normalise(x, statistics, weight, bias, eps)
        if ctx.conv is not None:
            size = x.shape[-2:]
            given = _swish(normed, split_padding(ctx.conv, size)[1])
            grad, conv_grad = conv_gradients(ctx.conv, grad, given, conv_weight,
                                             (any(needed[:3]), needed[3]), size)
        if not any(needed[:3]):
            return None, None, None, conv_grad, None, None, None
        grad = SWISH_BACKWARD(grad, normed, grad_input=normed)
        if count is None:
            grads = sync_bn.BACKWARD(grad, x, weight, *(running or (None, None)), mean, invstd,
                             not running, eps, needed[:3])
        else:
            grads = sync_bn.joint_gradients(grad, x, weight, mean, invstd, count, ctx.norm)
        return *(g if n else None for g, n in zip(grads, needed)), conv_grad, None, None, None


def _swish(x, odd: tuple[int, int]):
    """Swish of ``x``, with ``odd`` zeros at the end of height and width: no copy appends them."""
    if not any(odd):
        return F.silu(x)
    *_, height, width = x.shape
    result = torch.empty((*x.shape[:2], height + odd[0], width + odd[1]), dtype=x.dtype,
                         device=x.device, memory_format=layout_of(x))
    torch.ops.aten.silu.out(x, out=result[..., :height, :width])
    result[..., height:, :] = 0
    result[..., :height, width:] = 0
    return result


def choose_backward(layers: nn.Module, memory_efficient: bool, fast_gradients: bool) -> None:
    """Switch layers and blocks to the backward passes of the backbone's arguments."""
    for module in layers.modules():
        if hasattr(module, 'memory_efficient'):
            module.memory_efficient = memory_efficient
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.fast_gradients = fast_gradients


class LeanConvModule(ConvModule):
    """mmcv's ``ConvModule``, run with less around it where only the output is asked for, and with
    a backward pass that keeps less or takes less time.

    memory_efficient: keep the convolution's output alone.
    """
    memory_efficient = False

    def forward(self, x, activate=True, norm=True):
        if activate and norm and direct(x):
            return run(x, self)
        lean = self.memory_efficient and activate and norm and recomputable(x, self)
        fast = (wants_fast_gradients(self.conv) and _differentiated(x) and plain_order(self)
                and movable(self.conv))
        if not (lean or fast):
            return super().forward(x, activate, norm)
        x = convolve(x, self.conv) if fast else self.conv(x)
        if lean:
            return norm_swish(x, self)
        x = self.norm(x) if norm and self.with_norm else x
        return self.activate(x) if activate and self.with_activation else x


KNOWN.add(LeanConvModule)


def recomputable(x, module: ConvModule) -> bool:
    """Whether a layer ends in plain BatchNorm and Swish; others are run as the modules they are."""
    return (_differentiated(x) and type(module) in KNOWN
            and module.with_norm and module.with_activation
            and not any(map(_hooked, (module, module.norm, module.activate)))
            and type(module.norm) in NORMS and type(module.activate) in SWISH
            and plain_order(module))


def norm_swish(x: torch.Tensor, module: ConvModule, then: nn.Conv2d | None = None) -> torch.Tensor:
    """What BatchNorm and activation of ``module``, and a convolution, make of ``x``.

    x: (N, C, H, W), the output of ``module.conv``. It is all that is kept.
    """
    norm = module.norm
    norm._check_input_dim(x)
    values = x.numel() // x.shape[1]
    if values < 2 and (norm.training or norm.running_mean is None) and not sync_bn.joined(norm):
        raise ValueError('BatchNorm needs more than one value per channel to train, got input of '
                         f'shape {tuple(x.shape)}')
    share = norm.momentum or 0.0
    if norm.training and norm.track_running_stats and not sync_bn.joined(norm):
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            share = 1 / int(norm.num_batches_tracked)
    return _NormSwish.apply(x, norm.weight, norm.bias, then.weight if then else None, norm, share,
                            then)


def movable(conv: nn.Conv2d) -> bool:
    """Whether a convolution may be run as part of ``norm_swish``, and not as a module."""
    return (type(conv) in (nn.Conv2d, Conv2dSame) and conv.bias is None
            and conv.padding_mode == 'zeros' and not isinstance(conv.padding, str)
            and not _hooked(conv))


def gated_projection(x: torch.Tensor, gate: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """``conv(x * gate)`` of a 1x1 convolution, with the gate multiplied into its weight.

    x: (N, C, H, W). gate: (N, C, 1, 1). (N, C', H, W). Where an image has more pixels than the
    convolution has outputs, the weights of a batch are smaller than what the product would be.
    """
    count, channels, height, width = x.shape
    weight = conv.weight.flatten(1) * gate.flatten(1)[:, None]
    if layout_of(x) is torch.channels_last:
        rows = x.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        return (rows @ weight.transpose(1, 2)).unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return (weight @ x.flatten(2)).unflatten(2, (height, width))


def spatial_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, 1, 1).

    The gradient of a sum is a view of a small tensor, where that of a mean is a large one, in
    another layout than channels last. Half precision could not hold the sum, and autocast on
    accelerators would copy the input to float32 for it.
    """
    if not _differentiated(x) or x.dtype == torch.float16 or x.device.type != 'cpu':
        return x.mean((2, 3), keepdim=True)
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def foldable(x, gate: nn.Module, module: ConvModule) -> bool:
    """Whether ``gated_projection`` computes what gate and convolution would, and moves less."""
    conv = module.conv
    return (_differentiated(x) and type(module) in KNOWN
            and movable(conv) and not (_hooked(gate) or _hooked(module))
            and conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
            and conv.out_channels < x.shape[2] * x.shape[3])


def _differentiated(x) -> bool:
    """Whether autograd records, and there is something to; a compiler chooses itself what to keep,
    a tracer keeps nothing. A hook on all modules is to see all of them."""
    return (torch.is_grad_enabled() and isinstance(x, torch.Tensor) and not transformed()
            and x.numel() > 0 and not _has_any_global_hook())


def _hooked(module: nn.Module | None) -> bool:
    """Whether a module is more than its class: something looks at what it is given or gives, or
    takes its place."""
    return module is not None and bool(
        not silent(module) or module._backward_hooks or module._backward_pre_hooks)
