"""Why keys or shapes are those of no network that is known: what is missing, and what differs."""
from __future__ import annotations

from collections.abc import Mapping

from mmeffnet.variants import VARIANTS
from mmeffnet.weights.layouts import LAYOUTS, Layout, Shape, named_shapes

# A file whose kernels have the numbers of a variant's, in whatever order, to this share is of it.
ALIKE = 0.5


def lost_stem(keys) -> tuple[Layout, str] | None:
    """The layout of keys that have a first block, and the key of the stem that they lack."""
    for layout in LAYOUTS.values():
        place = layout.block.format(stage=0, first=1, group=1, place=0, index=0, count=0)
        for row in filter(None, (layout.plain, layout.mbconv, layout.fused)):
            first = f'{place}.{row[0]}.weight'
            for key in keys:
                prefix = key.removesuffix(first)
                if key.endswith(first) and (not prefix or prefix[-1] == '.'):
                    return layout, f'{prefix}{layout.stem[0]}.weight'
    return None


def first_difference(shapes: Mapping[str, Shape], layout: Layout) -> tuple[str, str, Shape] | None:
    """The nearest variant, and the first kernel of it that is missing or has another shape.

    Its key and the shape that it has to have; None where no variant is near.
    """
    shares = {name: _alike(shapes, layout, name) for name in VARIANTS}
    name = max(shares, key=shares.get)
    if max(shares[name]) < ALIKE:
        return None
    expected = named_shapes(VARIANTS[name].arch, layout)
    return next(((name, key, shape) for key, shape in expected.items()
                 if tuple(shapes.get(key, ())) != shape), None)


def _alike(shapes: Mapping[str, Shape], layout: Layout, name: str) -> tuple[float, float]:
    """How many kernels of a variant are there with the same shape, and with the same numbers."""
    expected = named_shapes(VARIANTS[name].arch, layout)
    pairs = [(tuple(shapes.get(key, ())), shape) for key, shape in (expected or {}).items()]
    total = max(len(pairs), sum(len(shape) == 4 for shape in shapes.values()) - 1, 1)
    turned = sum(sorted(found) == sorted(shape) for found, shape in pairs) / total
    return turned, sum(found == shape for found, shape in pairs) / total
