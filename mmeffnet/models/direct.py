"""Inference: the same layers with less between them.

One image of B0 is a hundred convolutions of a tenth of a millisecond. What modules do around each
takes as long as some of them, and an accelerator waits for it. Here a layer's tensors are taken
out of its modules, whose calls are left out as long as nothing could tell.

On a CPU there is what PyTorch's library sets up for each convolution besides, and a large batch has
activations beyond what the allocator keeps, which asks the system for each of their pages anew.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Swish
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from mmeffnet.models.formulas import HALVES
from mmeffnet.models.layers import Conv2dSame, adds_finely, conv2d, dropped

SWISH = (nn.SiLU, Swish)
IN_PLACE = {nn.SiLU: torch._C._nn.silu_, Swish: torch._C._nn.silu_, nn.Sigmoid: torch.sigmoid_}
# Activations whose output is dense where their input is a part of a tensor.
DENSE = {nn.SiLU: F.silu, Swish: F.silu, nn.ReLU: F.relu, nn.ReLU6: F.relu6}
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
KNOWN = {ConvModule}  # whose ``forward`` is what ``run`` does; a class made of one may do more
ORDER = ('conv', 'norm', 'act')
ONE = (1, 1)
REST = 'rest_of_bias'  # attribute of a convolution
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Pixels of a batch up to which a matrix product is faster than the library's 1x1 convolution.
ROWS = 2500
# Elements of half precision from which on a mean, which copies them to float32, is a product.
COPIED = 1 << 20
# Bytes of an activation. glibc keeps no freed memory above 32 MiB, and half of that at its end.
LARGEST = 16 << 20


def direct(x) -> bool:
    """Whether layers are run for their output alone: no gradients (of either direction), no
    tracing, no compiling, no transform of ``torch.func``."""
    return (not torch.is_grad_enabled() and type(x) is torch.Tensor and x.dim() == 4
            and not transformed() and not _has_any_global_hook())


def transformed() -> bool:
    """Whether operations are compiled, traced or transformed, which takes those it knows."""
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()
            or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def call(x: torch.Tensor, module: ConvModule) -> torch.Tensor:
    """``module(x)``, where ``direct(x)``."""
    return run(x, module) if type(module) in KNOWN and silent(module) else module(x)


def silent(module: nn.Module) -> bool:
    """Whether a call of a module is what its class says, and no more."""
    return not (module._forward_hooks or module._forward_pre_hooks
                or 'forward' in module.__dict__)


def run(x: torch.Tensor, module: ConvModule) -> torch.Tensor:
    """``ConvModule.forward(module, x)``, where ``direct(x)``."""
    inner = module._modules
    conv = inner['conv']
    norm = inner[module.norm_name] if module.with_norm else None
    activate = inner['activate'] if module.with_activation else None
    if not (plain_order(module) and silent(conv) and (norm is None or silent(norm))
            and (activate is None or silent(activate))):
        return ConvModule.forward(module, x)
    x, early = _convolved(x, conv)
    if any(early) and not (_by_value(norm) and type(activate) in DENSE):
        x, early = dropped(x, early), (0, 0)
    if norm is not None:
        x = _normed(x, norm)
    if activate is None:
        return x
    if any(early):
        return DENSE[type(activate)](x[..., early[0]:, early[1]:])
    # Nobody else has what the convolution, or the norm, put out.
    return IN_PLACE.get(type(activate), activate)(x)


def plain_order(module: ConvModule) -> bool:
    """Whether convolution, norm and activation are run in this order, and nothing else."""
    return (module.order == ORDER and not module.with_explicit_padding
            and module.efficient_conv_bn_eval_forward is None)


def _convolved(x, conv):
    """``conv(x)`` with rows and columns too many ahead, and their numbers: ``placed``."""
    if type(conv) not in CONVOLUTIONS or conv.padding_mode != 'zeros':
        return conv(x), (0, 0)
    weight, bias = conv._parameters['weight'], conv._parameters['bias']
    count, channels, height, width = x.shape
    few = is_product(x, conv)
    if REST in conv.__dict__:
        fine = fine_bias(conv)
        few, bias = few and fine is bias, fine
    if few:
        rows = F.linear(x.permute(0, 2, 3, 1).reshape(-1, channels), weight.flatten(1), bias)
        return rows.view(count, height, width, len(weight)).permute(0, 3, 1, 2), (0, 0)
    padding, early = conv.padding, (0, 0)
    if type(conv) is Conv2dSame and conv.depends_on_size:
        padding, early, ends = conv.placed(x)
        x = F.pad(x, ends) if ends else x
    return conv2d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups), early


def is_product(x, conv) -> bool:
    """Whether a convolution is better computed as a matrix product."""
    count, _, height, width = x.shape
    return (x.is_cpu and count * height * width <= ROWS and conv.kernel_size == ONE == conv.stride
            and conv.groups == 1 and conv.padding == (0, 0) and x.dtype in DTYPES
            and x.is_contiguous(memory_format=torch.channels_last))


def keep_rest(conv: nn.Conv2d, dtype: torch.dtype) -> None:
    """Keep what ``dtype`` does not hold of a bias beside it; no part of the state dict.

    Of weights nothing is kept: their rounding errors are many and cancel, that of a bias is one.
    """
    if conv.bias.is_meta:  # it has no values yet
        return
    bias = fine_bias(conv).detach().cpu()
    forget_rest(conv)
    if dtype in HALVES and bias.dtype not in HALVES:
        conv.__dict__[REST] = bias.float() - bias.to(dtype).float()


def forget_rest(conv: nn.Conv2d) -> None:
    """As other weights are loaded."""
    conv.__dict__.pop(REST, None)


def fine_bias(conv: nn.Conv2d) -> torch.Tensor:
    """A bias in float32 with the rest that was kept, or as it is where it cannot be added so."""
    bias, rest = conv._parameters['bias'], conv.__dict__.get(REST)
    if rest is None or bias.dtype not in HALVES or not bias.is_cpu or not adds_finely(bias.dtype):
        return bias
    return rest + bias


def _by_value(norm) -> bool:
    """Whether a norm maps each value alone, whatever the others are."""
    return norm is None or type(norm) is nn.Identity or (
        type(norm) is nn.BatchNorm2d and not norm.training and norm.running_mean is not None)


def _normed(x, norm):
    if type(norm) is nn.Identity:
        return x
    if not _by_value(norm):
        return norm(x)
    own = norm._parameters
    return torch.batch_norm(x, own['weight'], own['bias'], norm.running_mean, norm.running_var,
                            False, 0., norm.eps, torch.backends.cudnn.enabled)


def pixel_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, 1, 1), where ``direct(x)``."""
    if (not x.is_cpu or x.dtype is not torch.bfloat16 or x.numel() < COPIED
            or not x.is_contiguous(memory_format=torch.channels_last)):
        return x.mean((2, 3), keepdim=True)
    count, channels, height, width = x.shape
    pixels = height * width
    # Added up in float32 all the same.
    sums = x.new_ones((1, pixels)) @ x.permute(0, 2, 3, 1).reshape(count, pixels, channels)
    return sums.div_(pixels).view(count, channels, 1, 1)


def most_at_once(x: torch.Tensor, values: int) -> int:
    """Images of a batch of which a block in inference writes no activation beyond ``LARGEST``, on
    a CPU.

    values: of the block's largest activation, for an image.
    """
    return max(1, LARGEST // (values * x.element_size())) if x.is_cpu else x.shape[0]


def parts(x: torch.Tensor, block: nn.Module, values: int) -> tuple[torch.Tensor, ...]:
    """A batch in parts of ``most_at_once``, if the block is to see no more than that."""
    most = most_at_once(x, values)
    if most >= x.shape[0] or any(
            module.training or not silent(module)
            # Without running statistics it takes those of the batch.
            or isinstance(module, _BatchNorm) and module.running_mean is None
            for module in block.modules()):
        return x,
    return x.split(most)
