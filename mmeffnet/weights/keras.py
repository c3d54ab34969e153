"""Reading what Keras writes, as a state dict in the layout of efficientnet_pytorch."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mmeffnet.errors import InputError
from mmeffnet.variants import IMAGENET_NORM, Norm
from mmeffnet.weights.files import need

# The layers of keras.applications' EfficientNets, without the block they are in.
IN_BLOCK = {'expand_conv': '_expand_conv', 'expand_bn': '_bn0', 'dwconv': '_depthwise_conv',
            'bn': '_bn1', 'se_reduce': '_se_reduce', 'se_expand': '_se_expand',
            'project_conv': '_project_conv', 'project_bn': '_bn2'}
OUTSIDE = {'stem_conv': '_conv_stem', 'stem_bn': '_bn0', 'top_conv': '_conv_head',
           'top_bn': '_bn1', 'predictions': '_fc'}
VARIABLES = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
             'moving_variance': 'running_var', 'kernel': 'weight', 'depthwise_kernel': 'weight',
             'bias': 'bias'}


def read_keras(path) -> tuple[dict[str, torch.Tensor], Norm | None]:
    """The weights in a .h5 or .weights.h5 file, and the normalisation of RGB in 0..255.

    Files of keras.applications (EfficientNetB0 to B7, with and without classifier), of
    ``model.save`` and of ``save_weights``, of Keras 2 and 3.
    The network has its normalisation inside: x / 255, then the layer's mean and variance. The
    published files keep *standard deviations* in place of the variances, and the network that
    loads them divides once more by their root (tensorflow#49930), which comes to the usual
    ImageNet numbers. So: those, written either way, are ImageNet's; mean 0 and variance 1 is
    x / 255; other numbers need the architecture, which only ``model.save`` writes.
    Raises InputError for a damaged file, for layers that are not EfficientNet's, and for a
    normalisation that cannot be told.
    """
    h5py = need('h5py', 'keras')
    try:
        with h5py.File(path) as file:
            root = file.get('model_weights', file)
            layers = _numbered(root['layers']) if 'layers' in root else _named(root)
            config = file.attrs.get('model_config')
    except OSError as error:
        raise InputError(f'{str(path)!r} ({Path(path).stat().st_size:,} bytes) is no whole HDF5 '
                         f'file: copy or download it again') from error
    norm = _normalisation(layers.pop('normalization', None), config, path)
    state = {}
    for layer, variables in _in_order(layers, path):
        for name, value in variables.items():
            state[f'{layer}.{VARIABLES[name]}'] = _as_torch(layer, name, value)
    return state, norm


def _as_torch(layer: str, name: str, value: np.ndarray) -> torch.Tensor:
    if layer.endswith('depthwise_conv'):
        value = value.transpose(2, 3, 0, 1)  # k, k, channels, 1
    elif value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.T
    return torch.from_numpy(np.ascontiguousarray(value))


def _named(root) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> variable -> values, of files in which the layers have their own names."""
    layers: dict[str, dict[str, np.ndarray]] = {}

    def visit(name, item):
        if hasattr(item, 'shape'):
            layer, *_, variable = name.split('/')
            layers.setdefault(layer, {})[variable.partition(':')[0]] = item[()]
    root.visititems(visit)
    return {re.sub(r'^normalization_\d+$', 'normalization', layer): variables
            for layer, variables in layers.items() if variables}


# The kinds of layers that ``save_weights`` of Keras 3 numbers, and the order of their variables.
KINDS = {'conv2d': ('kernel', 'bias'), 'depthwise_conv2d': ('kernel', ),
         'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
         'dense': ('kernel', 'bias'), 'normalization': ('mean', 'variance', 'count')}


def _numbered(root) -> dict[str, dict[str, np.ndarray]]:
    """The same for files that number the layers of each kind in the order of the network.

    A convolution with a bias belongs to squeeze-and-excitation: so the convolutions of a
    block are told apart, and the blocks by their depthwise convolution.
    """
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for name in sorted(root, key=lambda name: int((re.search(r'_(\d+)$', name) or [0, 0])[1])):
        kind, group = re.sub(r'_\d+$', '', name), root[name].get('vars')
        if group is None or not len(group):
            continue
        if kind not in found:
            raise InputError(f'{root.file.filename!r}: layer {name!r} is none of an EfficientNet '
                             'of keras.applications')
        values = [group[key][()] for key in sorted(group, key=int)]
        found[kind].append(dict(zip(KINDS[kind], values)))
    try:
        layers = _sorted_out({kind: iter(items) for kind, items in found.items()},
                             len(found['depthwise_conv2d']))
    except StopIteration:
        layers = {}
    if not layers or sum(map(len, found.values())) != len(layers):
        raise InputError(f'{root.file.filename!r} does not have the layers of an EfficientNet of '
                         'keras.applications, and its numbered layers cannot be told apart: save '
                         'the network by model.save("....h5")')
    return layers


def _sorted_out(kinds: dict[str, Iterator], blocks: int) -> dict[str, dict]:
    """The layers under names as in the other files; StopIteration where there are too few."""
    convs, norms = kinds['conv2d'], kinds['batch_normalization']
    layers = {'stem_conv': next(convs), 'stem_bn': next(norms)}
    for number in range(blocks):
        block, conv = f'block{number}_', next(convs)
        if 'bias' not in conv:
            layers[f'{block}expand_conv'] = conv
            layers[f'{block}expand_bn'] = next(norms)
            conv = next(convs)
        layers[f'{block}dwconv'] = next(kinds['depthwise_conv2d'])
        layers[f'{block}bn'] = next(norms)
        layers[f'{block}se_reduce'] = conv
        layers[f'{block}se_expand'] = next(convs)
        layers[f'{block}project_conv'] = next(convs)
        layers[f'{block}project_bn'] = next(norms)
    layers |= {'top_conv': next(convs), 'top_bn': next(norms)}
    for name, kind in (('predictions', 'dense'), ('normalization', 'normalization')):
        layer = next(kinds[kind], None)  # neither has to be there
        if layer is not None:
            layers[name] = layer
    return layers


def _in_order(layers: dict, path) -> Iterator[tuple[str, dict]]:
    """Each layer under efficientnet_pytorch's name; blocks are counted through."""
    in_block = re.compile(r'block(\d+)([a-z]?)_(\w+)')
    found = {name: in_block.fullmatch(name) for name in layers}
    blocks = sorted({(int(match[1]), match[2]) for match in found.values() if match})
    unknown = []
    for name, variables in layers.items():
        match = found[name]
        if match:
            number, letter, rest = match.groups()
            inner = IN_BLOCK.get(rest)
            layer = inner and f'_blocks.{blocks.index((int(number), letter))}.{inner}'
        else:
            layer = OUTSIDE.get(name)
        if layer is None or not variables.keys() <= VARIABLES.keys():
            unknown.append(name)
        else:
            yield layer, variables
    if unknown:
        raise InputError(f'{str(path)!r}: {len(unknown)} layers are none of an EfficientNet of '
                         f'keras.applications: {", ".join(unknown[:3])}')


def _normalisation(layer: dict | None, config, path) -> Norm | None:
    if layer is None:
        return None  # saved layer by layer, without the first ones
    mean, variance = (np.asarray(layer[key], float).reshape(-1) for key in ('mean', 'variance'))
    if config is not None:
        return _from_architecture(mean, variance, json.loads(config), path)
    known = np.array(IMAGENET_NORM.mean) / 255, np.array(IMAGENET_NORM.std) / 255
    if np.allclose(mean, known[0], atol=1e-4):
        for stored in (known[1], known[1] ** 2):
            if np.allclose(variance, stored, atol=1e-4):
                return IMAGENET_NORM
    if np.allclose(mean, 0) and np.allclose(variance, 1):
        return Norm(mean=(0., 0., 0.), std=(255., 255., 255.))
    raise InputError(
        f'{str(path)!r} normalises by mean {mean.round(4).tolist()} and variance '
        f'{variance.round(4).tolist()}, and whether the network rescales after that is not in '
        'the file: save the whole network by model.save("....h5")')


def _from_architecture(mean, variance, config: dict, path) -> Norm:
    """What the layers before the stem do, by the network's own description."""
    scale, after, seen = np.ones(3), np.ones(3), False
    for layer in config['config']['layers']:
        kind, settings = layer['class_name'], layer['config']
        if kind == 'Normalization':
            seen = True
        elif kind == 'Rescaling':
            if np.any(np.asarray(settings.get('offset', 0.), float) != 0):
                raise InputError(f'{str(path)!r}: layer {settings["name"]!r} shifts its input, '
                                 'which no network of keras.applications does')
            factor = np.asarray(settings['scale'], float)
            scale, after = (scale, after * factor) if seen else (scale * factor, after)
    std = np.sqrt(variance) / (scale * after)
    return Norm(mean=tuple((mean / scale).round(6).tolist()), std=tuple(std.round(6).tolist()))
