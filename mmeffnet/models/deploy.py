"""The network as it is deployed: BatchNorm folded into convolutions, padding known beforehand."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet.errors import InputError
from mmeffnet.models.blocks import ResidualBlock, SqueezeExcite
from mmeffnet.models.layers import Conv2dSame


def fold(backbone) -> None:
    """Fold each BatchNorm into its convolution and let blocks work in place.

    A convolution is left with a weight and a bias that no training changes. ValueError where
    something else than BatchNorm normalises, which depends on the image.
    """
    norms = [m for layer in backbone.layers for m in layer.modules()
             if 'norm' in type(m).__name__.lower() and not isinstance(m, _BatchNorm)]
    if norms or not any(isinstance(m, _BatchNorm) for m in backbone.modules()):
        raise ValueError(f'norm_cfg={backbone.norm_cfg}: only BatchNorm can be folded into '
                         'convolutions')
    fuse_conv_bn(backbone.layers)
    backbone.eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, (ResidualBlock, SqueezeExcite)):
            module.in_place = True


@torch.no_grad()
def fix_padding(backbone, size: Sequence[int]) -> None:
    """Let each convolution remember the SAME padding of images of one size (height, width).

    Images of other sizes are padded by their own size, as before.
    """
    height, width = size
    handles = [module.register_forward_pre_hook(lambda conv, inputs: conv.remember(
        tuple(inputs[0].shape[-2:]))) for module in backbone.modules()
        if isinstance(module, Conv2dSame) and module.depends_on_size]
    first = next(backbone.parameters())
    channels = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).in_channels
    try:
        backbone(torch.zeros((1, channels, height, width), dtype=first.dtype, device=first.device))
    finally:
        for handle in handles:
            handle.remove()


def check_form(state: Mapping[str, torch.Tensor], prefix: str, deployed: bool) -> None:
    """Refuse weights of the other form, of which MMEngine would load a part in silence."""
    folded = f'{prefix}layers.0.conv.bias' in state
    if f'{prefix}layers.0.conv.weight' not in state or folded == deployed:
        return
    if deployed:
        raise InputError('the weights have BatchNorm, and this network is built with deploy=True: '
                         'build it without, load them, then call switch_to_deploy()')
    raise InputError('BatchNorm is folded into the convolutions of these weights, as '
                     'switch_to_deploy() does: build the backbone with deploy=True')
