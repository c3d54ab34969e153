"""The balanced scaling whose cost comes nearest to a target. No PyTorch here."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mmeffnet.errors import InputError
from mmeffnet.scaling import ModelScaling

DIGITS = 4  # decimals of a factor, so that a config reads well and means what was measured
MOST_GROWTH = 40.  # of depth, width and resolution, each beside that at phi = 0
LEAST_SIDE = 32  # pixels; below it the last feature map would lose its only pixel
MOST_PHI = 20


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How depth, width and resolution grow together, and from where.

    alpha, beta, gamma: growth of depth, width and resolution for each phi, at least 1 and not
    all 1. resolution: side in pixels at phi = 0. step: sides are multiples of it.
    Raises InputError naming the flag.
    """
    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15
    resolution: int = 224
    step: int = 4

    def __post_init__(self):
        for name in ('alpha', 'beta', 'gamma'):
            if not 1 <= getattr(self, name) < math.inf:
                raise InputError(f'--{name} {getattr(self, name)} must be at least 1')
        if self.alpha * self.beta * self.gamma == 1:
            raise InputError('--alpha, --beta and --gamma are all 1: nothing would grow')
        if self.step < 1:
            raise InputError(f'--resolution-step {self.step} must be at least 1')

    def at(self, phi: float) -> ModelScaling:
        """The scaling for any phi, below 0 too: networks smaller than the base."""
        side = self.resolution * self.gamma ** phi
        return ModelScaling(width=_written(self.beta ** phi), depth=_written(self.alpha ** phi),
                            resolution=max(self.step, round(side / self.step) * self.step))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest phi that are looked at."""
        fastest = max(self.alpha, self.beta, self.gamma)
        most = min(MOST_PHI, math.log(MOST_GROWTH) / math.log(fastest))
        if self.gamma == 1:
            return -MOST_PHI, most
        least = math.log(LEAST_SIDE / self.resolution) / math.log(self.gamma)
        return max(-MOST_PHI, math.ceil(least)), most


def _written(factor: float) -> float:
    return max(round(factor, DIGITS), 10 ** -DIGITS)


@dataclass(frozen=True)
class Found:
    """A scaling, the phi it belongs to, and its cost in the unit of the target."""
    phi: float
    scaling: ModelScaling
    cost: float


def nearest(cost: Callable[[ModelScaling], float], target: float, ratio: Ratio, *,
            grain: float = 0.01) -> list[Found]:
    """The costs next to a target, the nearer first: one at most, and one above it if there is.

    cost: should not fall as phi grows; where it did, what came nearer on the way is given before
    them. It is asked for multiples of ``grain`` only, for few and from the base outwards, since the
    largest networks take long to measure. One entry where the target lies beyond the smallest or
    largest network.
    """
    low, high = (round(phi / grain) for phi in ratio.range)
    seen = {}

    def at(index: int) -> float:
        if index not in seen:
            phi = round(index * grain, 6)
            scaling = ratio.at(phi)
            seen[index] = Found(phi, scaling, cost(scaling))
        return seen[index].cost

    below, above, stride = 0, 0, max(1, round(0.5 / grain))
    while at(below) > target and below > low:
        above, below, stride = below, max(low, below - stride), 2 * stride
    while at(above) <= target and above < high:
        below, above, stride = above, min(high, above + stride), 2 * stride
    if at(below) > target or at(above) <= target:
        return [seen[below if at(below) > target else above]]
    while above - below > 1:
        middle = (above + below) // 2
        if at(middle) <= target:
            below = middle
        else:
            above = middle

    def distance(found: Found) -> float:
        return abs(found.cost - target)

    # A time that was measured may have been longer than that of a larger network.
    around = sorted((seen[below], seen[above]), key=distance)
    best = min(seen.values(), key=distance)
    return [best, *around] if distance(best) < distance(around[0]) else around
