"""Other networks that compound scaling is applied to.

A network is scaled by one of two ways. Either its stages are inverted residuals or fused blocks:
then it is described as an :class:`mmeffnet.Arch`, and everything that works for an EfficientNet
works for it. Or it is anything registered with MMEngine that takes numbers for width and depth:
then ``Network.scaled`` says which of its arguments they are.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmeffnet.arch import Arch, Stage, nearest
from mmeffnet.scaling import ModelScaling, round_channels, round_repeats

# Kernel 3 everywhere; stride, expand, channels, repeats. Table 2 of Sandler and others,
# "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
_MOBILENET_V2 = ((1, 1, 16, 1), (2, 6, 24, 2), (2, 6, 32, 3), (2, 6, 64, 4), (1, 6, 96, 3),
                 (2, 6, 160, 3), (1, 6, 320, 1))
MOBILENET_V2 = Arch(
    stem=32, head=1280, activation='ReLU6', padding='symmetric',
    stages=tuple(Stage(name=f'stage{i}', block='mbconv', kernel=3, stride=s, expand=e, channels=c,
                       repeats=r) for i, (s, e, c, r) in enumerate(_MOBILENET_V2, start=1)))
RESNET_50 = (3, 4, 6, 3)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that can be scaled.

    scaled: the config of its backbone with the width and depth of a scaling. features: channels
    of its last output with them. resolution: side in pixels at 1x.
    """
    name: str
    scaled: Callable[[ModelScaling], dict[str, Any]]
    features: Callable[[ModelScaling], int]
    resolution: int = 224


def described(name: str, arch: Arch) -> Network:
    """The network whose stages are ``arch``."""
    return Network(
        name=name, features=lambda scaling: scaling.apply(arch).head,
        scaled=lambda scaling: dict(type='mmeffnet.EfficientNet',
                                    arch=scaling.apply(arch).to_dict()))


def _resnet(scaling: ModelScaling) -> dict[str, Any]:
    width = round_channels(64 * scaling.width, scaling.divisor, scaling.round_limit)
    return dict(type='mmeffnet.ScaledResNet', stem_channels=width, base_channels=width,
                stage_blocks=tuple(round_repeats(n, scaling.depth) for n in RESNET_50))


NETWORKS = {
    'mobilenet_v2': described('mobilenet_v2', MOBILENET_V2),
    'resnet50': Network(name='resnet50', scaled=_resnet,
                        features=lambda scaling: 32 * _resnet(scaling)['base_channels'])}


def get_network(name: str) -> Network:
    """Look a network up; ValueError names the nearest one where there is none."""
    if name not in NETWORKS:
        raise ValueError(f'network={name!r} is not known{nearest(name, NETWORKS)} '
                         f'(known: {", ".join(NETWORKS)})')
    return NETWORKS[name]
