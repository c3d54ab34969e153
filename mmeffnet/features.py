"""What a backbone gives, known before it is built: channels, strides and names of outputs.

No PyTorch here.
"""
from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from mmeffnet.arch import Arch, nearest
from mmeffnet.registry import TASK_UTILS
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import get_variant

# How a config names the class of ``scaling``, where it does not leave it out.
SCALINGS = (ModelScaling, 'ModelScaling', 'mmeffnet.ModelScaling')


@dataclass(frozen=True)
class Feature:
    """One output of a backbone.

    index: its number in ``out_indices``. name: the stages up to it that share its resolution.
    channels: its width. stride: pixels of the input per pixel of it.
    """
    index: int
    name: str
    channels: int
    stride: int


class FeatureInfo(tuple):
    """The outputs of a backbone, in order; prints as a table."""

    @property
    def channels(self) -> list[int]:
        """What a neck takes as ``in_channels``."""
        return [feature.channels for feature in self]

    @property
    def strides(self) -> list[int]:
        """Pixels of the input per pixel of each output."""
        return [feature.stride for feature in self]

    def __str__(self) -> str:
        rows = [('index', 'channels', 'stride', 'name'),
                *((f.index, f.channels, f.stride, f.name) for f in self)]
        return '\n'.join('{:>5}  {:>8}  {:>6}  {}'.format(*row) for row in rows)


def feature_info(arch='b0', out_indices: Sequence[int] | None = None, *, scaling=None,
                 output_stride: int | None = None) -> FeatureInfo:
    """The outputs of a backbone with these arguments; nothing is built.

    arch, scaling, output_stride, out_indices: as :class:`mmeffnet.EfficientNet` takes them;
    None gives every output. Raises ValueError as the backbone does.

    >>> print(feature_info('b3', (3, 4, 5)))
    index  channels  stride  name
        3        48       8  stage3
        4       136      16  stage4+stage5
        5       384      32  stage6+stage7
    """
    arch = resolve_arch(arch, scaling)
    arch.blocks(output_stride)  # refuses a wrong stride
    names = ['stem', *('+'.join(stage.name for stage in group) for group in arch.groups), 'head']
    strides = [min(stride, output_stride or stride) for stride in arch.out_strides]
    features = [Feature(*row) for row in zip(range(len(names)), names, arch.out_channels, strides)]
    wanted = (range(len(names)) if out_indices is None
              else check_indices(out_indices, len(names)))
    return FeatureInfo(features[i] for i in wanted)


def resolve_arch(arch, scaling=None) -> Arch:
    """The architecture that ``arch`` and ``scaling`` of a config mean.

    Raises ValueError for an unknown variant (naming the nearest), for a wrong field of a
    stage or of ``scaling``, and for scaling something that is scaled already.
    """
    if isinstance(arch, Mapping):
        arch = Arch.from_dict(arch)
    scaling = resolve_scaling(scaling)
    if isinstance(arch, Arch):
        return scaling.apply(arch) if scaling else arch
    variant = get_variant(arch)
    if scaling is None:
        return variant.arch
    if variant.arch != variant.family:
        raise ValueError(f'arch={arch!r} is scaled already ({variant.scaling}); '
                         "scale a base variant: 'b0', 'es' or 'lite0'")
    return scaling.apply(variant.family)


def resolve_scaling(scaling) -> ModelScaling | None:
    """The scaling that ``scaling`` of a config means, whose ``type`` may be left out.

    Raises ValueError for what is no scaling, and for a misspelt field (naming the nearest).
    """
    if scaling is None or isinstance(scaling, ModelScaling):
        return scaling
    if not isinstance(scaling, Mapping):
        raise ValueError(f'scaling={scaling!r} must be a dict of the arguments of ModelScaling, '
                         'such as dict(width=1.2, depth=1.4)')
    if scaling.get('type', ModelScaling) not in SCALINGS:
        return TASK_UTILS.build(scaling)
    # MMEngine enters the scope of a config that is inherited by name.
    given = {key: value for key, value in scaling.items() if key not in ('type', '_scope_')}
    known = inspect.signature(ModelScaling).parameters
    for key in given:
        if key not in known:
            raise ValueError(f'scaling: no field is called {key!r}{nearest(key, known)}')
    return ModelScaling(**given)


def check_indices(out_indices, total: int) -> tuple[int, ...]:
    """Sorted, non-negative output indices."""
    try:
        indices = tuple(out_indices)
    except TypeError:  # a number, None, or an array without axes
        indices = ()
    if not indices:
        raise ValueError(f'out_indices={out_indices!r} must be a sequence of output indices')
    for index in indices:
        whole = isinstance(index, Integral) and not isinstance(index, bool)
        if not whole or not -total <= index < total:
            raise ValueError(f'out_indices={indices!r} must lie in '
                             f'0..{total - 1}, and {index!r} does not')
    return tuple(sorted({int(index) % total for index in indices}))
