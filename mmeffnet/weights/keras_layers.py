"""The layers in a file of Keras, by the names that keras.applications has for them."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mmeffnet.errors import InputError
from mmeffnet.weights.keras_input import WAY_OUT
from mmeffnet.weights.translate import few

Layers = dict[str, dict[str, np.ndarray]]  # layer -> variable -> values

ONE_NETWORK = 'save the EfficientNet that is meant by its own save_weights, and give that file'
# The kinds of layers that ``save_weights`` of Keras 3 numbers, and the order of their variables.
KINDS = {'conv2d': ('kernel', 'bias'), 'depthwise_conv2d': ('kernel', ),
         'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
         'dense': ('kernel', 'bias'), 'normalization': ('mean', 'variance', 'count')}
NUMBER = re.compile(r'_(\d+)$')


def read_layers(root, path) -> Layers:
    """The layers of an HDF5 group, of one network in whatever others.

    Raises InputError for several networks, and for layers that cannot be told apart.
    """
    _refuse_own_class(root, path)
    return _numbered(root['layers'], path) if 'layers' in root else _named(root, path)


def refuse(path, lacking: Iterable[str], beside: Iterable[str]) -> None:
    """Raise InputError where a file lacks variables of its network or has others beside them."""
    parts = [f'{verb} {len(names)} variables {which} ({few(sorted(names))})'
             for verb, which, names in (('has', 'of no EfficientNet', set(beside)),
                                        ('lacks', 'that its network needs', set(lacking)))
             if names]
    if parts:
        raise InputError(f'{str(path)!r} {" and ".join(parts)}: give the whole checkpoint of an '
                         'EfficientNet, and of nothing else')


def _refuse_own_class(root, path) -> None:
    """InputError for the file of a class that derives from keras.Model: what it has by attributes
    lies beside ``layers``, or around them, and no order is told."""
    own = [name for name, group in root.items() if name not in ('layers', 'optimizer', 'vars')
           and hasattr(group, 'keys') and {'layers', 'vars'} & group.keys()]
    if own:
        raise InputError(f'{str(path)!r} is of a class that derives from keras.Model, with '
                         f'{few(own)} as attributes: {ONE_NETWORK}')


def _named(root, path) -> Layers:
    """The layers of files in which they have their own names, whatever network they are in."""
    layers: Layers = {}
    twice = []

    def visit(name, item):
        if hasattr(item, 'shape') and '/' in name:
            *_, layer, variable = name.split('/')
            variable = variable.partition(':')[0].replace('depthwise_kernel', 'kernel')
            layer = layers.setdefault(re.sub(r'^normalization_\d+$', 'normalization', layer), {})
            if variable in layer:
                twice.append(name)
            layer[variable] = item[()]
    root.visititems(visit)
    if twice:
        raise InputError(f'{str(path)!r} has {len(twice)} variables twice, as of several networks '
                         f'({few(twice)}): {ONE_NETWORK}')
    return layers


def _levels(layers) -> Iterator[Mapping]:
    """The layers of a network, then those of each network that is one of them."""
    yield layers
    for layer in layers.values():
        if 'layers' in layer:
            yield from _levels(layer['layers'])


def _numbered(root, path) -> Layers:
    """The same for files that number the layers of each kind in the order of the network.

    A convolution with a bias belongs to squeeze-and-excitation: so the convolutions of a
    block are told apart, and the blocks by their depthwise convolution. Every layer has to
    find its place, and every BatchNorm has to be as wide as the convolution before it.
    """
    found: dict[str, list] = {kind: [] for kind in KINDS}
    beside = []
    levels = list(_levels(root))
    if sum('depthwise_conv2d' in {NUMBER.sub('', name) for name in level} for level in levels) > 1:
        raise InputError(f'{str(path)!r} holds several networks: {ONE_NETWORK}')
    numbered = [(name, level[name]) for level in levels for name in
                sorted(level, key=lambda name: int((NUMBER.search(name) or (0, 0))[1]))]
    for name, layer in numbered:
        kind, group = NUMBER.sub('', name), layer.get('vars', {})
        if len(group) > len(KINDS.get(kind, ())):
            beside.append(name)
        elif len(group):
            values = [group[key][()] for key in sorted(group, key=int)]
            found[kind].append(dict(zip(KINDS[kind], values)))
    refuse(path, (), beside)
    try:
        layers = _sorted_out({kind: iter(items) for kind, items in found.items()},
                             len(found['depthwise_conv2d']))
    except StopIteration:
        layers = {}
    if sum(map(len, found.values())) != len(layers) or not _widths_agree(layers):
        raise InputError(f'{str(path)!r} does not have the layers of an EfficientNet of '
                         'keras.applications, and its numbered layers cannot be told apart: '
                         + WAY_OUT)
    return layers


def _sorted_out(kinds: dict[str, Iterator], blocks: int) -> Layers:
    """The layers under names as in the other files; StopIteration where there are too few."""
    convs, norms = kinds['conv2d'], kinds['batch_normalization']
    layers = {'stem_conv': next(convs), 'stem_bn': next(norms)}
    for number in range(1, blocks + 1):
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


def _widths_agree(layers: Layers) -> bool:
    """Whether each BatchNorm has as many channels as the convolution it follows."""
    for name, norm in layers.items():
        if name.endswith('bn'):
            conv = f'{name[:-2]}conv' if f'{name[:-2]}conv' in layers else f'{name[:-2]}dwconv'
            kernel = layers[conv]['kernel']
            width = kernel.shape[2] if conv.endswith('dwconv') else kernel.shape[-1]
            if any(value.shape != (width, ) for value in norm.values()):
                return False
    return bool(layers)
