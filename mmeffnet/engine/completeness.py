"""Whether weights are those of a whole network: what a clean file of ours has to hold."""
from __future__ import annotations

import re
from collections import Counter

import torch
from torch import nn

from mmeffnet.arch import Arch, Stage
from mmeffnet.errors import InputError
from mmeffnet.models import EfficientNet
from mmeffnet.weights import Weights
from mmeffnet.weights.fit import CLASSIFIER_KEYS, STEM, other_shape
from mmeffnet.weights.layouts import BACKBONE, CLASSIFIER
from mmeffnet.weights.values import COUNTERS, few

NORM = '.bn.'  # in keys of ours, unless norm_cfg says otherwise
ACTIVATION = '.activate.'  # of mmcv's ConvModule
WHOLE = 'only a whole network, or a whole backbone without classifier, is converted'
Shapes = dict[str, tuple[int, ...]]


def refuse_parts(weights: Weights) -> list[str]:
    """Refuse what is no whole network, or is deployed: the file would look like one.

    A network of no published variant is held against the config that its checkpoint keeps; where
    there is none, against what its own kernels tell. These do not tell how many blocks a group has:
    a file that lost the last one, and all of it, passes. Raises InputError with the keys.

    Gives the keys by which a whole network differs from one of its architecture: normalisation of
    another kind, and activations with weights, are what the file says, in every layer alike.
    """
    what = f'{weights.source!r} is of {weights.variant or "a custom network"}'
    found = {key: tuple(tensor.shape) for key, tensor in weights.state.items()
             if not key.endswith(COUNTERS)}
    if _is_deployed(found):
        raise InputError(f'{what}, deployed: BatchNorm is folded into its convolutions, and no '
                         'library loads that: convert the weights that it was made from')
    try:
        arch = weights.arch or weights.stated.get('arch') or arch_of(found)
    except KeyError as error:
        raise InputError(f'{what} and lacks {error.args[0]}: {WHOLE}') from error
    except ValueError as error:
        raise InputError(f'{what} and of none that is built here ({error}): {WHOLE}') from error
    usual = _expected(arch, found)
    shapes = _with_norms_of(found, usual)
    if any(ACTIVATION in key for key in found):
        shapes |= {key: found.get(key, shape) for key, shape in
                   _expected(arch, found, act_cfg=dict(type='PReLU')).items() if ACTIVATION in key}
    for problem, keys in (
            ('lacks {} of its tensors', shapes.keys() - found.keys()),
            ('has {} tensors that it has no place for', found.keys() - shapes.keys()),
            ('has {} tensors of other shapes', {other_shape(k, found[k], shapes[k]) for k in found
                                                if k in shapes and found[k] != shapes[k]})):
        if keys:
            raise InputError(f'{what} and {problem.format(len(keys))}: {few(sorted(keys))}: '
                             f'{WHOLE}')
    return sorted(found.keys() ^ usual.keys())


def _is_deployed(found: Shapes) -> bool:
    """Whether convolutions have biases in the place of BatchNorm; those of SE have them always."""
    return STEM.replace('weight', 'bias') in found or (
        not any(key.endswith('running_mean') for key in found)
        and any(key.endswith('.conv.bias') and '.se.' not in key for key in found))


def _expected(arch: Arch, found: Shapes, **options) -> Shapes:
    with torch.device('meta'):  # keys and shapes alone, in no time
        network = EfficientNet(arch, in_channels=found[STEM][1], **options)
        classifier = nn.Linear(arch.head, found.get(CLASSIFIER_KEYS[0], (1, ))[0])
    expected = {f'{BACKBONE}{key}': tensor for key, tensor in network.state_dict().items()}
    if not found.keys().isdisjoint(CLASSIFIER_KEYS):
        expected |= {f'{CLASSIFIER}.{key}': t for key, t in classifier.state_dict().items()}
    return {key: tuple(t.shape) for key, t in expected.items() if not key.endswith(COUNTERS)}


def _with_norms_of(found: Shapes, shapes: Shapes) -> Shapes:
    """The shapes with that normalisation in each layer which most layers of the file have."""
    layers = {key.partition(NORM)[0]: shape for key, shape in shapes.items() if NORM in key}
    norms: dict[str, list[str]] = {layer: [] for layer in layers}
    for key in found:
        layer, norm, name = (*key.rsplit('.', 2), '', '')[:3]
        if layer in layers and f'.{norm}.' not in ('.conv.', ACTIVATION):
            norms[layer].append(f'{norm}.{name}')
    usual = Counter(tuple(sorted(names)) for names in norms.values()).most_common(1)[0][0]
    return {key: shape for key, shape in shapes.items() if NORM not in key} | {
        f'{layer}.{name}': shape for layer, shape in layers.items() for name in usual}


def arch_of(shapes: Shapes) -> Arch:
    """An architecture with kernels of these shapes, under our keys; its strides are anyone's.

    Raises KeyError for a kernel that is missing, by its key, and ValueError for shapes that no
    architecture has.
    """
    numbers = [[*map(int, found[1].split('.'))] for key in shapes if (
        found := re.match(rf'{BACKBONE}layers\.(\d+(?:\.\d+)?)\.', key))]
    counts = Counter()
    for group, *place in numbers:
        counts[group] = max(counts[group], *(number + 1 for number in place), 0)
    last = max(counts)
    last += counts[last] > 0  # the head convolution has no blocks
    stem, *_ = _kernel(shapes, '0')
    stages, channels = [], stem
    for group in range(1, last):
        for place in range(counts[group] or 1):
            stages.append(_stage(shapes, f'{group}.{place}', place == 0, channels))
            channels = stages[-1].channels
    return Arch(stem=stem, stages=tuple(stages), head=_kernel(shapes, str(last))[0])


def _stage(shapes: Shapes, layer: str, first: bool, channels: int) -> Stage:
    """A stage of one block; channels: those that enter it."""
    fused = f'{BACKBONE}layers.{layer}.conv1.conv.weight' in shapes
    wide, narrow = ('conv1', 'conv2') if fused else ('depthwise_conv', 'linear_conv')
    hidden, _, _, kernel = _kernel(shapes, f'{layer}.{wide}')
    squeezed = any(key.startswith(f'{BACKBONE}layers.{layer}.se.') for key in shapes)
    # Between two whole numbers, so that rounding down gives the lower one.
    ratio = min(1, (_kernel(shapes, f'{layer}.se.conv1')[0] + 0.5) / channels) if squeezed else 0
    return Stage(name=layer, block='fused' if fused else 'mbconv', kernel=kernel,
                 stride=2 if first else 1, expand=1, expand_from=hidden, se_ratio=ratio,
                 channels=_kernel(shapes, f'{layer}.{narrow}')[0], repeats=1)


def _kernel(shapes: Shapes, layer: str) -> tuple[int, int, int, int]:
    key = f'{BACKBONE}layers.{layer}.conv.weight'
    if len(shapes[key]) != 4:
        raise ValueError(f'{key} is no kernel')
    return shapes[key]
