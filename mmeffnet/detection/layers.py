"""What neck and heads of EfficientDet are made of."""
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import nn


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, a pointwise one with bias, and normalisation if wanted.

    (N, in_channels, H, W) to (N, out_channels, H, W). At stride 1 SAME padding is even.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict | None = None):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels,
                                   bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1] if norm_cfg else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))


def halve(x: torch.Tensor) -> torch.Tensor:
    """The largest of 3x3 elements at stride 2 with SAME padding; (H, W) to half, rounded up.

    An even side lacks an element at its end, where a window may begin by ``ceil_mode``; an odd
    one lacks an element at both ends. So nothing is copied.
    """
    return F.max_pool2d(x, 3, 2, padding=[side % 2 for side in x.shape[-2:]], ceil_mode=True)


def resize(x: torch.Tensor, size) -> torch.Tensor:
    """Bring a level to the size of one that is twice as fine, or half as fine."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-2] > size[0] or x.shape[-1] > size[1]:
        return halve(x)
    return F.interpolate(x, size=tuple(size), mode='nearest')
