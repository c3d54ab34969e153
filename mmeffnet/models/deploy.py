"""The network as it is deployed: BatchNorm folded into its convolutions."""
from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from mmeffnet.errors import InputError
from mmeffnet.models.blocks import ResidualBlock, SqueezeExcite
from mmeffnet.models.direct import forget_rest, keep_rest, silent
from mmeffnet.models.layers import Conv2dSame

DTYPES = torch.float32, torch.float64, torch.float16, torch.bfloat16
# Of convolutions that compute with the weight they hold: some pad the input before.
FORWARDS = nn.Conv2d.forward, Conv2dAdaptivePadding.forward
CONV_FORWARDS = nn.Conv2d._conv_forward, Conv2dSame._conv_forward


def check_arguments(size, dtype) -> None:
    """ValueError for a size that is no height and width, or a type that nothing computes in."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f'dtype={dtype!r} must be one of {", ".join(map(str, DTYPES))}')
    if size is not None and not (
            isinstance(size, Sequence) and len(size) == 2
            and all(isinstance(side, Integral) and side > 0 for side in size)):
        raise ValueError(f'size={size!r} must be height and width of the images in pixels, such as '
                         '(224, 224)')


def fold(backbone) -> None:
    """Fold each BatchNorm into its convolution and let blocks work in place.

    A convolution is left with a weight and a bias that no training changes. ValueError where
    something else than BatchNorm normalises, which depends on the image.
    """
    for name, module in backbone.layers.named_modules():
        if isinstance(module, ConvModule) and isinstance(module.norm, _BatchNorm):
            _check_foldable(name, module)
    norms = [m for layer in backbone.layers for m in layer.modules()
             if 'norm' in type(m).__name__.lower() and not isinstance(m, _BatchNorm)]
    if norms or not any(isinstance(m, _BatchNorm) for m in backbone.modules()):
        raise ValueError(f'norm_cfg={backbone.norm_cfg}: only BatchNorm can be folded into '
                         'convolutions')
    for norm in backbone.modules():
        if isinstance(norm, _BatchNorm) and norm.weight is None:  # affine=False
            norm.weight = nn.Parameter(torch.ones_like(norm.running_var))
            norm.bias = nn.Parameter(torch.zeros_like(norm.running_var))
    _part_convolutions(backbone.layers)
    fuse_conv_bn(backbone.layers)
    backbone.eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, ResidualBlock):
            module.in_place = True


def _part_convolutions(layers: nn.Module) -> None:
    """Copy each convolution that several layers share: each has a BatchNorm of its own to fold."""
    modules = [*layers.modules()]
    uses = Counter(child for module in modules for child in module._modules.values())
    for module in modules:
        for name, child in module._modules.items():
            if isinstance(child, nn.Conv2d) and uses[child] > 1:
                module._modules[name] = copy.deepcopy(child)


def _check_foldable(name: str, module: ConvModule) -> None:
    """ValueError for a layer whose output is not linear in its weight, or depends on the batch."""
    conv, norm = module.conv, module.norm
    known = (isinstance(conv, nn.Conv2d) and type(conv).forward in FORWARDS
             and type(conv)._conv_forward in CONV_FORWARDS)
    # Pruning, and the older ways to normalise weights, compute them in a hook.
    if not known or not silent(conv) or is_parametrized(conv):
        raise ValueError(f'layers.{name}.conv, a {type(conv).__name__}, computes with another '
                         'weight than it holds, or another way: BatchNorm can be folded into '
                         'plain convolutions alone')
    if norm.running_mean is None:
        raise ValueError(f'layers.{name}.{module.norm_name} has no running statistics '
                         '(track_running_stats=False): it cannot be folded')


@torch.no_grad()
def convert(backbone, dtype: torch.dtype) -> None:
    """Cast the weights to ``dtype``, depthwise kernels so that each keeps its sum.

    A depthwise output is a sum over few pixels, of which neighbours are much alike: what rounding
    adds to it is mostly the change of the kernel's sum. What it takes from a bias is kept beside
    it, for processors that add biases in float32, but in SE, whose products are of one pixel: a
    library's convolution takes longer than those.
    """
    excite = {module for se in backbone.modules() if isinstance(se, SqueezeExcite)
              for module in se.modules()}
    for conv in backbone.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv.groups == conv.in_channels > 1:
            kernels = rounded(conv.weight.flatten(1), dtype)
            conv.weight.copy_(kernels.view_as(conv.weight))
        if conv.bias is not None and conv not in excite:
            keep_rest(conv, dtype)
    backbone.to(dtype)


def forget_rests(backbone) -> None:
    """What ``convert`` kept beside the biases is that of the weights it was given."""
    for conv in backbone.modules():
        if isinstance(conv, nn.Conv2d):
            forget_rest(conv)


def rounded(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N, K) to numbers that ``dtype`` holds, each next to its own, whose rows have like sums.

    From the coarsest number of a row to the finest, each is rounded to the side that brings the
    sum so far closer to what it was.
    """
    nearest = rows.to(dtype)
    beyond = torch.where(nearest.to(rows.dtype) < rows, torch.inf, -torch.inf).to(dtype)
    choices = torch.stack([nearest, torch.nextafter(nearest, beyond)]).to(rows.dtype)
    choices[1] = torch.where(choices[0] == rows, rows, choices[1])
    result, missing = torch.empty_like(rows), rows.new_zeros(len(rows))
    order = (choices[1] - choices[0]).abs().argsort(1, descending=True)
    for column in order.unbind(1):
        index = column[:, None]
        exact = rows.gather(1, index)[:, 0] + missing
        near, far = (choice.gather(1, index)[:, 0] for choice in choices)
        taken = torch.where((far - exact).abs() < (near - exact).abs(), far, near)
        result.scatter_(1, index, taken[:, None])
        missing = exact - taken
    return result


@torch.no_grad()
def prepare(backbone, size: Sequence[int]) -> None:
    """Let the network see an image of one size (height, width): what it works out once for a size
    is done then, its padding and in channels last its plan."""
    first = next(backbone.parameters())
    channels = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).in_channels
    backbone(torch.zeros((1, channels, *size), dtype=first.dtype, device=first.device))


def folded(state: Mapping[str, torch.Tensor], prefix: str) -> bool:
    """Whether weights are those of a deployed network: only there convolutions have a bias."""
    return f'{prefix}layers.0.conv.bias' in state


def check_form(state: Mapping[str, torch.Tensor], prefix: str, deployed: bool) -> None:
    """Refuse weights of the other form, of which MMEngine would load a part in silence."""
    if f'{prefix}layers.0.conv.weight' not in state or folded(state, prefix) == deployed:
        return
    if deployed:
        raise InputError('the weights have BatchNorm, and this network is built with deploy=True: '
                         'build it without, load them, then call switch_to_deploy()')
    raise InputError('BatchNorm is folded into the convolutions of these weights, as '
                     'switch_to_deploy() does: build the backbone with deploy=True')
