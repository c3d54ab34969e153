"""The published networks: three families and eighteen members, as one table.

This module imports the standard library, ``arch`` and ``scaling`` only.
"""
from __future__ import annotations

from dataclasses import dataclass

from mmeffnet.arch import Arch, Stage, nearest
from mmeffnet.scaling import ModelScaling


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Per-channel mean and standard deviation of RGB input in 0..255."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_NORM = Norm(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# Input in -1..1. EdgeTPU, Lite and AdvProp weights; the first two were trained with mean
# 127 and std 128, which moves the input by at most 0.008 and is published as 0.5 by timm.
HALF_NORM = Norm(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))


@dataclass(frozen=True)
class Variant:
    """A published network: a family, how it is scaled, and how it is fed.

    dropout: rate before the classifier. norm: what its published weights expect.
    """
    family: Arch
    scaling: ModelScaling
    dropout: float
    norm: Norm = IMAGENET_NORM

    @property
    def arch(self) -> Arch:
        return self.scaling.apply(self.family)

    @property
    def resolution(self) -> int:
        """Input side in pixels."""
        return self.scaling.resolution


def _stages(block: str, rows, se_ratio: float = 0.0, **first) -> tuple[Stage, ...]:
    """Stages from rows of kernel, stride, expand, channels, repeats and maybe a block."""
    names = ('kernel', 'stride', 'expand', 'channels', 'repeats', 'block')
    return tuple(
        Stage(name=f'stage{i}', se_ratio=se_ratio,
              **{'block': block, **dict(zip(names, row)), **(first if i == 1 else {})})
        for i, row in enumerate(rows, start=1))


# Table 1 of the paper, as the reference TPU code has it: the strides are 1 2 2 2 1 2 1 (the
# first print of the table has the resolutions one row off).
_B0_ROWS = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
            (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))

MBCONV = Arch(stem=32, head=1280, activation='SiLU',
              stages=_stages('mbconv', _B0_ROWS, se_ratio=0.25))

# No squeeze-and-excitation, ReLU6, and both ends keep their size under scaling.
LITE = Arch(stem=32, head=1280, activation='ReLU6', scale_stem_head=False,
            stages=_stages('mbconv', _B0_ROWS))

# The first stage counts its expansion from its own scaled 24 channels, not from the stem:
# in 'el' the hidden width is 4 x round(24 x 1.2) = 128 (mmpretrain builds 120).
EDGE = Arch(stem=32, head=1280, activation='ReLU',
            stages=_stages('fused', ((3, 1, 4, 24, 1), (3, 2, 8, 32, 2), (3, 2, 8, 48, 4),
                                     (5, 2, 8, 96, 5, 'mbconv'), (5, 1, 8, 144, 4, 'mbconv'),
                                     (5, 2, 8, 192, 2, 'mbconv')),
                           expand_from=24, skip=False))


def _scaled(width: float, depth: float, resolution: int) -> ModelScaling:
    return ModelScaling(width=width, depth=depth, resolution=resolution)


# Coefficients and dropout as published with the TPU code; they are a table, not a formula.
VARIANTS: dict[str, Variant] = {
    'b0': Variant(MBCONV, _scaled(1.0, 1.0, 224), dropout=0.2),
    'b1': Variant(MBCONV, _scaled(1.0, 1.1, 240), dropout=0.2),
    'b2': Variant(MBCONV, _scaled(1.1, 1.2, 260), dropout=0.3),
    'b3': Variant(MBCONV, _scaled(1.2, 1.4, 300), dropout=0.3),
    'b4': Variant(MBCONV, _scaled(1.4, 1.8, 380), dropout=0.4),
    'b5': Variant(MBCONV, _scaled(1.6, 2.2, 456), dropout=0.4),
    'b6': Variant(MBCONV, _scaled(1.8, 2.6, 528), dropout=0.5),
    'b7': Variant(MBCONV, _scaled(2.0, 3.1, 600), dropout=0.5),
    'b8': Variant(MBCONV, _scaled(2.2, 3.6, 672), dropout=0.5),
    'l2': Variant(MBCONV, _scaled(4.3, 5.3, 800), dropout=0.5),
    'es': Variant(EDGE, _scaled(1.0, 1.0, 224), dropout=0.2, norm=HALF_NORM),
    'em': Variant(EDGE, _scaled(1.0, 1.1, 240), dropout=0.2, norm=HALF_NORM),
    'el': Variant(EDGE, _scaled(1.2, 1.4, 300), dropout=0.3, norm=HALF_NORM),
    'lite0': Variant(LITE, _scaled(1.0, 1.0, 224), dropout=0.2, norm=HALF_NORM),
    'lite1': Variant(LITE, _scaled(1.0, 1.1, 240), dropout=0.2, norm=HALF_NORM),
    'lite2': Variant(LITE, _scaled(1.1, 1.2, 260), dropout=0.3, norm=HALF_NORM),
    'lite3': Variant(LITE, _scaled(1.2, 1.4, 280), dropout=0.3, norm=HALF_NORM),
    'lite4': Variant(LITE, _scaled(1.4, 1.8, 300), dropout=0.3, norm=HALF_NORM),
}

# Share of the blocks' outputs dropped at the last block in the published training runs.
DROP_PATH_RATE = 0.2


def get_variant(name: str) -> Variant:
    """Look a variant up; ValueError names the nearest one where there is none."""
    try:
        return VARIANTS[name]
    except (KeyError, TypeError):
        raise ValueError(f'arch={name!r} is not a variant{nearest(name, VARIANTS)} '
                         f'(known: {", ".join(VARIANTS)})') from None


def variant_of(arch: Arch) -> str | None:
    """The name of the variant with this architecture, None where there is none."""
    return next((name for name, variant in VARIANTS.items() if variant.arch == arch), None)
