"""The neck of EfficientDet: features flow down the pyramid and up again, added with weights."""
from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import nn

from mmeffnet.detection.layers import SeparableConv, halve, resize
from mmeffnet.models.layer_configs import complete_norm_cfg
from mmeffnet.registry import MODELS

EPSILON = 1e-4  # of fast normalised fusion
FUSIONS = ('fast', 'softmax', 'sum')


@MODELS.register_module()
class BiFPN(BaseModule):
    """Bidirectional feature pyramid, from EfficientDet (CVPR 2020, section 3).

    A tuple of (N, in_channels[i], H_i, W_i), each half as large as the one before, to
    ``num_outs`` of (N, out_channels, H_i, W_i). Levels that the backbone does not have are made
    from its last one by max pooling.

    Args:
        in_channels (Sequence[int]): Channels of each input, the finest first.
        out_channels (int): Channels of every output.
        num_outs (int): Levels, at least as many as inputs. Defaults to 5.
        repeats (int): Layers, each of one way down and one way up. Defaults to 3.
        fusion (str): 'fast' (weights of at least 0 over their sum), 'softmax' or 'sum' (no
            weights). Defaults to 'fast'.
        norm_cfg (dict, optional): Defaults to BatchNorm with TensorFlow's eps and momentum.
        init_cfg (dict, optional): Initial weights. Defaults to Glorot's uniform.

    Raises ValueError naming the argument, its value and the rule.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int = 5,
                 repeats: int = 3, fusion: str = 'fast', norm_cfg: dict | None = None,
                 init_cfg=dict(type='Xavier', layer='Conv2d', distribution='uniform')):
        super().__init__(init_cfg)
        if num_outs < max(2, len(in_channels)):
            raise ValueError(f'num_outs={num_outs} must be at least 2 and the number of inputs, '
                             f'{len(in_channels)}')
        if repeats < 1:
            raise ValueError(f'repeats={repeats} must be at least 1')
        if fusion not in FUSIONS:
            raise ValueError(f'fusion={fusion!r} must be one of {", ".join(FUSIONS)}')
        norm_cfg = complete_norm_cfg(norm_cfg)
        channels, self.extra = list(in_channels), nn.ModuleList()
        while len(channels) < num_outs:
            self.extra.append(_lateral(channels[-1], out_channels, norm_cfg))
            channels.append(out_channels)
        self.layers = nn.ModuleList()
        for _ in range(repeats):
            self.layers.append(BiFPNLayer(channels, out_channels, fusion, norm_cfg))
            channels = [out_channels] * num_outs

    def forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        levels = list(inputs)
        for lateral in self.extra:
            levels.append(halve(lateral(levels[-1])))
        for layer in self.layers:
            levels = layer(levels)
        return tuple(levels)


def wiring(levels: int) -> list[tuple[int, tuple[int, ...]]]:
    """The nodes of a layer in order: the level of each, and the numbers of what it adds up.

    The inputs are 0 to levels - 1, and nodes are counted on. Down first: a level and the one
    above. Then up: the level itself, its node on the way down, and the level below.
    """
    nodes, newest = [], list(range(levels))
    for level in range(levels - 2, -1, -1):
        nodes.append((level, (level, newest[level + 1])))
        newest[level] = levels + len(nodes) - 1
    for level in range(1, levels):
        own = (level, newest[level]) if level < levels - 1 else (level, )
        nodes.append((level, (*own, newest[level - 1])))
        newest[level] = levels + len(nodes) - 1
    return nodes


class BiFPNLayer(nn.Module):
    """One way down and one way up; a list of levels to a list of levels."""

    def __init__(self, channels: Sequence[int], out_channels: int, fusion: str, norm_cfg: dict):
        super().__init__()
        self.wiring = wiring(len(channels))
        channels = [*channels, *(out_channels for _ in self.wiring)]
        self.nodes = nn.ModuleList(
            Node({i: channels[i] for i in sources}, out_channels, fusion, norm_cfg)
            for _, sources in self.wiring)

    def forward(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        features, sizes = list(levels), [level.shape[-2:] for level in levels]
        for (level, sources), node in zip(self.wiring, self.nodes):
            features.append(node([features[i] for i in sources], sizes[level]))
        # The last node of each level: of the finest the last on the way down.
        return features[-len(sizes):]


class Node(nn.Module):
    """Features of up to three levels, brought to one size, added up and convolved."""

    def __init__(self, sources: dict[int, int], out_channels: int, fusion: str, norm_cfg: dict):
        super().__init__()
        self.fusion = fusion
        # By the number of the source, as a state dict of the reference names them.
        self.laterals = nn.ModuleDict({
            str(i): _lateral(channels, out_channels, norm_cfg)
            for i, channels in sources.items()})
        if fusion != 'sum':
            self.weights = nn.Parameter(torch.ones(len(sources)))
        self.act = nn.SiLU()
        self.conv = SeparableConv(out_channels, out_channels, norm_cfg)

    def forward(self, features: Sequence[torch.Tensor], size) -> torch.Tensor:
        inputs = [resize(lateral(x), size)
                  for lateral, x in zip(self.laterals.values(), features)]
        return self.conv(self.act(self._fuse(inputs)))

    def _fuse(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        if self.fusion == 'sum':
            return sum(inputs[1:], inputs[0])
        weights = self.weights.to(inputs[0].dtype)
        if self.fusion == 'fast':
            weights = weights.relu()
            weights = weights / (weights.sum() + EPSILON)
        else:
            weights = weights.softmax(0)
        return sum((x * w for x, w in zip(inputs[1:], weights[1:])), inputs[0] * weights[0])


def _lateral(in_channels: int, out_channels: int, norm_cfg: dict) -> nn.Module:
    """A 1x1 convolution with normalisation where the channels differ."""
    if in_channels == out_channels:
        return nn.Identity()
    # The bias before BatchNorm does nothing, and published weights have it.
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1),
                         build_norm_layer(norm_cfg, out_channels)[1])
