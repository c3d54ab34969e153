"""Reading what Keras writes, as a state dict in the layout of efficientnet_pytorch."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from mmeffnet.errors import InputError, one_line
from mmeffnet.variants import Norm
from mmeffnet.weights.files import need
from mmeffnet.weights.keras_input import WAY_OUT, normalisation
from mmeffnet.weights.layouts import LUKEMELAS, recognise
from mmeffnet.weights.translate import few

Layers = dict[str, dict[str, np.ndarray]]  # layer -> variable -> values

# The layers of keras.applications' EfficientNets, without the block they are in, in the order
# in which they run.
MBCONV = {'expand_conv': '_expand_conv', 'expand_bn': '_bn0', 'dwconv': '_depthwise_conv',
          'bn': '_bn1', 'se_reduce': '_se_reduce', 'se_expand': '_se_expand',
          'project_conv': '_project_conv', 'project_bn': '_bn2'}
PLAIN = {layer: name for layer, name in MBCONV.items() if not layer.startswith('expand')}
TRUNK = {'stem_conv': '_conv_stem', 'stem_bn': '_bn0', 'top_conv': '_conv_head',
         'top_bn': '_bn1'}
TOP = {'predictions': '_fc'}
ONE_NETWORK = 'save the EfficientNet that is meant by its own save_weights, and give that file'
VARIABLES = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
             'moving_variance': 'running_var', 'kernel': 'weight', 'bias': 'bias'}


def read_keras(path) -> tuple[dict[str, torch.Tensor], Norm | None]:
    """The weights in a .h5 or .weights.h5 file, and the normalisation of RGB in 0..255.

    Files of keras.applications (EfficientNetB0 to B7, with and without classifier), of
    ``model.save`` and of ``save_weights``, of Keras 2 and 3. The network may be a layer of
    another, and the classifier a Dense layer of any name.
    The normalisation is None where the file has no such layer, see ``keras_input``.
    Raises InputError for a damaged file, for layers beside or missing in an EfficientNet, and
    for a normalisation that cannot be told.
    """
    h5py = need('h5py', 'keras')
    if not Path(path).is_file():
        raise InputError(f'{str(path)!r} does not exist: give the path of a Keras .h5 file')
    try:
        with h5py.File(path) as file:
            root = file.get('model_weights', file)
            _refuse_own_class(root, path)
            layers = _numbered(root['layers'], path) if 'layers' in root else _named(root, path)
            config = file.attrs.get('model_config')
    # What h5py has for torn and overwritten files.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f'{str(path)!r} ({Path(path).stat().st_size:,} bytes) is no whole HDF5 '
                         f'file ({one_line(error)[:120]}): remove it, and copy or download it '
                         'again') from error
    _name_classifier(layers)
    if 'predictions' in layers and 'GlobalMaxPooling2D' in str(config):
        raise InputError(f'{str(path)!r}: its classifier takes the largest values '
                         '(GlobalMaxPooling2D), and that of an EfficientNet takes means: train '
                         "it with pooling='avg'")
    norm = layers.pop('normalization', None)
    names = _names(layers, path)
    state = {f'{names[layer]}.{VARIABLES[variable]}': _as_torch(layer, value)
             for layer, variables in layers.items() for variable, value in variables.items()}
    refuse(path, absent_blocks(state), ())
    if norm is None:
        return state, None
    refuse(path, {f'normalization/{name}' for name in ('mean', 'variance') if name not in norm},
           ())
    return state, normalisation(norm, config, path)


def refuse(path, lacking: Iterable[str], beside: Iterable[str]) -> None:
    """Raise InputError where a file lacks variables of its network or has others beside them."""
    parts = [f'{verb} {len(names)} variables {which} ({few(sorted(names))})'
             for verb, which, names in (('has', 'of no EfficientNet', set(beside)),
                                        ('lacks', 'that its network needs', set(lacking)))
             if names]
    if parts:
        raise InputError(f'{str(path)!r} {" and ".join(parts)}: give the whole checkpoint of an '
                         'EfficientNet, and of nothing else')


def absent_blocks(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The last blocks of a published network that a state dict ends before."""
    _, arch = recognise({key: tuple(value.shape) for key, value in state.items()}, LUKEMELAS)
    count = sum(stage.repeats for stage in arch.stages) if arch else 0
    found = {key.split('.')[1] for key in state if key.startswith('_blocks.')}
    return [f'block {number} (from 0)' for number in range(count) if str(number) not in found]


def nearest_kind(present: set[str], kinds: Iterable[Mapping[str, str]], variables_of
                 ) -> tuple[Mapping[str, str], set[str]]:
    """The kind of block with most of the variables and fewest others, and its variables.

    present: 'layer/variable' in the file. kinds: layer -> efficientnet_pytorch's name, the one
    with more layers first, so that it is taken where half of those are missing.
    """
    choices = [(kind, {f'{layer}/{variable}' for layer in kind
                       for variable in variables_of(layer)}) for kind in kinds]
    return min(choices, key=lambda choice: len(choice[1] ^ present))


def _as_torch(layer: str, value: np.ndarray) -> torch.Tensor:
    if value.ndim == 4:  # (k, k, in, out), and (k, k, channels, 1) where depthwise
        value = value.transpose((2, 3, 0, 1) if layer.endswith('dwconv') else (3, 2, 0, 1))
    elif value.ndim == 2:
        value = value.T
    return torch.from_numpy(np.ascontiguousarray(value))


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


def _name_classifier(layers: Layers) -> None:
    """Give the classifier the name that keras.applications has for it, where it has another."""
    dense = [name for name, variables in layers.items()
             if variables.keys() == {'kernel', 'bias'} and variables['kernel'].ndim == 2]
    if len(dense) == 1:
        layers['predictions'] = layers.pop(dense[0])


# The kinds of layers that ``save_weights`` of Keras 3 numbers, and the order of their variables.
KINDS = {'conv2d': ('kernel', 'bias'), 'depthwise_conv2d': ('kernel', ),
         'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
         'dense': ('kernel', 'bias'), 'normalization': ('mean', 'variance', 'count')}
NUMBER = re.compile(r'_(\d+)$')


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


def _variables_of(layer: str) -> tuple[str, ...]:
    kind = 'batch_normalization' if layer.endswith('bn') else 'conv2d'
    return KINDS[kind] if kind != 'conv2d' or layer.startswith(('se_', 'pred')) else ('kernel', )


def _names(layers: Layers, path) -> dict[str, str]:
    """efficientnet_pytorch's name of each layer, which has its blocks counted through.

    Raises InputError where the layers are not exactly those of an EfficientNet.
    """
    in_block = re.compile(r'block(\d+)([a-z]?)_(\w+)')
    places: dict[tuple[int, str], set[str]] = {}
    outside = set()
    for layer, variables in layers.items():
        match = in_block.fullmatch(layer)
        present = outside if match is None else places.setdefault((int(match[1]), match[2]), set())
        present |= {f'{match[3] if match else layer}/{variable}' for variable in variables}
    chosen, expected = nearest_kind(outside, (TRUNK | TOP, TRUNK), _variables_of)
    names, lacking, beside = dict(chosen), expected - outside, outside - expected
    if not places:
        lacking.add('block1a_dwconv/kernel')
    for count, place in enumerate(_without_gaps(places)):
        present, prefix = places.get(place, set()), 'block{}{}_'.format(*place)
        chosen, expected = nearest_kind(present, (MBCONV, PLAIN), _variables_of)
        names |= {f'{prefix}{layer}': f'_blocks.{count}.{name}' for layer, name in chosen.items()}
        lacking |= {f'{prefix}{variable}' for variable in expected - present}
        beside |= {f'{prefix}{variable}' for variable in present - expected}
    refuse(path, lacking, beside)
    return names


def _without_gaps(places: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """All blocks up to the last of each stage: 1a, 2a, 2b, ...; or 1, 2, ... where numbered."""
    last = dict(sorted(places))  # the last letter wins
    return [(number, chr(letter) if letter else '')
            for number in range(1, max(last, default=0) + 1)
            for letter in (range(ord('a'), ord(last.get(number) or 'a') + 1)
                           if last.get(number) != '' else (0, ))]
