"""Compound scaling of depth, width and resolution (ICML 2019, section 3.3).

This module imports the standard library and ``arch`` only.
"""
from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, replace
from fractions import Fraction
from numbers import Integral, Real

from mmeffnet.arch import Arch

# What is above them is a slip of the pen: no computer holds the network.
MOST = dict(width=100, depth=100, resolution=1_000_000)


def round_channels(wanted, divisor: int = 8, round_limit: float = 0.9) -> int:
    """Snap a width to a multiple of ``divisor``, losing little of it.

    wanted: channels after scaling, > 0. round_limit: least share of ``wanted`` kept.
    Raises ValueError if ``wanted`` or ``divisor`` is not positive.
    Source: ``round_filters`` in the reference TPU code. 19.2 -> 24, where bare rounding
    gives 16 and loses a sixth.
    """
    if wanted <= 0 or divisor <= 0:
        raise ValueError(f'wanted={wanted} and divisor={divisor} must both be above 0')
    wanted = _exact(wanted)
    channels = max(divisor, int(wanted + Fraction(divisor, 2)) // divisor * divisor)
    if channels < _exact(round_limit) * wanted:
        channels += divisor
    return channels


def round_repeats(repeats: int, depth: float) -> int:
    """Blocks of a stage after depth scaling: ``repeats * depth``, rounded up.

    The product is exact: 25 x 2.2 is 55, where floats give 55.00000000000001 and a bare
    ceil 56. Raises ValueError if either is not positive.
    """
    if repeats <= 0 or depth <= 0:
        raise ValueError(f'repeats={repeats} and depth={depth} must both be above 0')
    return math.ceil(repeats * _exact(depth))


@dataclass(frozen=True, kw_only=True)
class ModelScaling:
    """Scale an architecture's width and depth, and state the input resolution.

    width, depth: factors, > 0, 1 by default. resolution: input side in pixels, 224 by
    default. Widths become multiples of ``divisor`` that keep at least ``round_limit`` of
    what was asked for.
    scale_stem_head: whether stem, head and the repeats of the first and the last stage
    scale too; None (default) follows the architecture (the Lite family keeps them).
    phi: compound coefficient, in place of the three factors: depth ``alpha**phi``, width
    ``beta**phi``, resolution ``base_resolution * gamma**phi`` in whole pixels; the cost
    grows as ``(alpha * beta**2 * gamma**2)**phi``, 1.92**phi with the paper's numbers.

    The published B1 to B7 are *not* this formula: B7 is depth 3.1, width 2.0, 600 px,
    while phi=7 gives 3.58, 1.95 and 596. ``arch='b7'`` builds the published network.

    Numbers of numpy become Python's. Raises ValueError for a factor that is not above 0 or is
    larger than any network (``MOST``), and for phi beside a factor.
    """
    width: float | None = None
    depth: float | None = None
    resolution: int | None = None
    divisor: int = 8
    round_limit: float = 0.9
    scale_stem_head: bool | None = None
    phi: InitVar[float | None] = None
    alpha: InitVar[float] = 1.2
    beta: InitVar[float] = 1.1
    gamma: InitVar[float] = 1.15
    base_resolution: InitVar[int] = 224

    def __post_init__(self, phi, alpha, beta, gamma, base_resolution):
        factors = dict(width=1.0, depth=1.0, resolution=base_resolution)
        if phi is not None:
            given = [name for name in factors if getattr(self, name) is not None]
            if given:
                raise ValueError(f'phi={phi} sets width, depth and resolution together; '
                                 f'remove {", ".join(given)} or remove phi')
            alpha, beta, gamma, base_resolution = _positive(
                alpha=alpha, beta=beta, gamma=gamma, base_resolution=base_resolution).values()
            power = _number(phi)
            if not 0 <= power < math.inf:
                raise ValueError(f'phi={phi!r} must be a finite number of at least 0')
            try:
                factors = dict(width=beta**power, depth=alpha**power,
                               resolution=round(base_resolution * gamma**power))
            except OverflowError as error:
                raise ValueError(f'phi={phi!r} is too large: width, depth and resolution grow '
                                 'beyond all numbers') from error
        for name, value in factors.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        values = _positive(width=self.width, depth=self.depth, resolution=self.resolution,
                           divisor=self.divisor)
        for name, most in MOST.items():
            if values[name] > most:
                raise ValueError(f'{name}={values[name]!r} must be at most {most:,}')
        for name in ('resolution', 'divisor'):
            if values[name] != int(values[name]):
                raise ValueError(f'{name}={values[name]!r} must be a whole number')
            values[name] = int(values[name])
        values['round_limit'] = _number(self.round_limit)
        if not 0 < values['round_limit'] <= 1:
            raise ValueError(f'round_limit={self.round_limit!r} must be above 0, at most 1')
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_phi(cls, phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15,
                 base_resolution: int = 224, **rounding) -> ModelScaling:
        """The paper's formula; differs from the published table, see the class.

        Multiply-adds grow as ``(alpha * beta**2 * gamma**2)**phi``, which the paper calls 2**phi
        and which is 1.92**phi with its numbers, within what rounding allows. A width keeps 0.9 of
        what was asked for and all but 4 channels of it, and gains less than ``divisor``; a stage
        gains less than one block; a side of a feature map loses at most half a pixel of the
        input, which is a whole number, and gains less than one pixel of its own beside. Of the
        rest, the stem, the first block of a stage and the head do not become deeper, and a
        depthwise kernel grows with the width and not with its square.

        For B0 and phi from 0 to 10 that makes 0.96 to 1.72 times 1.92**phi: at most 1.48 from
        phi 1 on and 1.24 from phi 4 on. Most of it is depth: as soon as phi is above 0, every
        stage has a block more.
        """
        return cls(phi=phi, alpha=alpha, beta=beta, gamma=gamma,
                   base_resolution=base_resolution, **rounding)

    def apply(self, arch: Arch) -> Arch:
        """A new architecture with scaled widths and repeats; ``arch`` stays as it is."""
        ends = arch.scale_stem_head if self.scale_stem_head is None else self.scale_stem_head
        last = len(arch.stages) - 1
        stages = tuple(
            replace(stage,
                    channels=self._width(stage.channels),
                    expand_from=stage.expand_from and self._width(stage.expand_from),
                    repeats=(round_repeats(stage.repeats, self.depth)
                             if ends or 0 < i < last else stage.repeats))
            for i, stage in enumerate(arch.stages))
        return replace(arch, stages=stages,
                       stem=self._width(arch.stem) if ends else arch.stem,
                       head=self._width(arch.head) if ends else arch.head)

    def _width(self, channels: int) -> int:
        if self.width == 1:  # keep the widths of a custom architecture that needs no scaling
            return channels
        return round_channels(channels * _exact(self.width), self.divisor, self.round_limit)


def _exact(number) -> Fraction:
    """The decimal that was written: 1.1 is 11/10 and not the nearest binary fraction."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def _number(value) -> int | float | Fraction:
    """``value`` as a number of Python; not a number (nan) for what is none.

    numpy's float32 of 1.2 is 1.2, the decimal that was written, and not 1.2000000476837158.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    if isinstance(value, Fraction):
        return value
    return int(value) if isinstance(value, Integral) else float(str(value))


def _positive(**values) -> dict[str, int | float | Fraction]:
    """The values as numbers of Python; ValueError for one that is not above 0, or infinite."""
    numbers = {name: _number(value) for name, value in values.items()}
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f'{name}={values[name]!r} must be a number above 0')
        if math.isinf(number):
            raise ValueError(f'{name}={values[name]!r} must be finite')
    return numbers
