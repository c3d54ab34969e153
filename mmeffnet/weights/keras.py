"""Reading what Keras writes, as a state dict in the layout of efficientnet_pytorch."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from mmeffnet.errors import InputError, one_line
from mmeffnet.variants import Norm
from mmeffnet.weights.files import need
from mmeffnet.weights.keras_input import normalisation
from mmeffnet.weights.keras_layers import KINDS, Layers, read_layers, refuse
from mmeffnet.weights.layouts import LUKEMELAS, recognise

# The layers of keras.applications' EfficientNets, without the block they are in, in the order
# in which they run.
MBCONV = {'expand_conv': '_expand_conv', 'expand_bn': '_bn0', 'dwconv': '_depthwise_conv',
          'bn': '_bn1', 'se_reduce': '_se_reduce', 'se_expand': '_se_expand',
          'project_conv': '_project_conv', 'project_bn': '_bn2'}
PLAIN = {layer: name for layer, name in MBCONV.items() if not layer.startswith('expand')}
TRUNK = {'stem_conv': '_conv_stem', 'stem_bn': '_bn0', 'top_conv': '_conv_head',
         'top_bn': '_bn1'}
TOP = {'predictions': '_fc'}
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
            layers = read_layers(file.get('model_weights', file), path)
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


def _name_classifier(layers: Layers) -> None:
    """Give the classifier the name that keras.applications has for it, where it has another."""
    dense = [name for name, variables in layers.items()
             if variables.keys() == {'kernel', 'bias'} and variables['kernel'].ndim == 2]
    if len(dense) == 1:
        layers['predictions'] = layers.pop(dense[0])


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
