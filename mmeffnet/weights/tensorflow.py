"""Reading TensorFlow checkpoints of the TPU code, in the layout of efficientnet_pytorch."""
from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mmeffnet.errors import InputError, one_line
from mmeffnet.weights.files import need
from mmeffnet.weights.keras import absent_blocks, nearest_kind
from mmeffnet.weights.keras_layers import refuse
from mmeffnet.weights.layouts import LUKEMELAS

AVERAGE = '/ExponentialMovingAverage'
VARIABLES = {'kernel': 'weight', 'depthwise_kernel': 'weight', 'bias': 'bias', 'gamma': 'weight',
             'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
BACKGROUND_CLASSES = 1001  # ImageNet's after a background class

# A block's layers in the order in which they run, which is LUKEMELAS's, too. TensorFlow counts
# the layers of a kind that a block calls, so that a name alone does not tell what it is.
BLOCKS = dict(
    plain=('depthwise_conv2d', '{norm}', 'se/conv2d', 'se/conv2d_1', 'conv2d', '{norm}_1'),
    mbconv=('conv2d', '{norm}', 'depthwise_conv2d', '{norm}_1', 'se/conv2d', 'se/conv2d_1',
            'conv2d_1', '{norm}_2'),
    fused=('conv2d', '{norm}', 'se/conv2d', 'se/conv2d_1', 'conv2d_1', '{norm}_1'))


def import_tensorflow():
    """TensorFlow, in a way that PyTorch works on after it; InputError where it is missing.

    TensorFlow 2.20 and later end the process by a segmentation fault when triton, which
    PyTorch and torchvision import when they need it, comes after them (tensorflow#124205).
    """
    if 'tensorflow' not in sys.modules:  # else it is too late
        with contextlib.suppress(ImportError):
            importlib.import_module('triton')
    return need('tensorflow', 'tensorflow')


def read_tensorflow(path, average: bool = True) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of the TPU code: EfficientNet, EdgeTPU or Lite.

    path: the prefix ('model.ckpt'), one of its files, or their folder. average: take the moving
    averages, which the published accuracies are of, and refuse a checkpoint without them;
    False takes the last weights. A head of 1001 classes loses the first, the background.
    Raises InputError for a checkpoint that is damaged, or not of such a network: it needs
    every variable of one, and none besides but those of the training.
    Source: the variable names are those of efficientnet_model.py in the reference TPU code.
    """
    prefix = _prefix(Path(path))
    index = prefix.with_name(f'{prefix.name}.index')
    if not index.is_file():
        raise InputError(f'{str(path)!r} is no TensorFlow checkpoint, which needs the file '
                         f'{str(index)!r}: give prefix or folder of .index and .data files')
    tf = import_tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = set(reader.get_variable_to_shape_map())
        chosen = _choose(names, average, path)
        values = {name: reader.get_tensor(stored) for name, stored in chosen.items()}
    except (ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
        raise InputError(f'{str(path)!r} is no whole TensorFlow checkpoint '
                         f'({one_line(error)[:120]}): remove it, and copy or download it again, '
                         'the .index and the .data files') from error
    return _translated(values, path)


def _prefix(path: Path) -> Path:
    """The common part of a checkpoint's file names."""
    if path.is_dir():
        indices = sorted(path.glob('*.index'))
        listed = path / 'checkpoint'
        if len(indices) > 1 and listed.is_file():
            newest = re.search(r'^model_checkpoint_path: "(.*)"$', listed.read_text(), re.MULTILINE)
            if newest:
                return path / Path(newest[1]).name
        if len(indices) != 1:
            raise InputError(f'the folder {str(path)!r} holds {len(indices)} TensorFlow '
                             'checkpoints (*.index): name one')
        path = indices[0]
    return path.with_name(re.sub(r'\.(index|meta|data-\d{5}-of-\d{5})$', '', path.name))


def _choose(names: set[str], average: bool, path) -> dict[str, str]:
    """Each variable of the network -> the one that is read for it.

    Averages and the slots of optimizers are kept under the name of their variable.
    """
    own = {name for name in names if name.startswith('efficientnet')
           and name.rpartition('/')[0] not in names and not name.endswith(AVERAGE)}
    # A file of averages alone is one of averages all the same.
    own |= {name.removesuffix(AVERAGE) for name in names
            if name.startswith('efficientnet') and name.endswith(AVERAGE)}
    if not own:
        raise InputError(f'{str(path)!r} holds no variables of an EfficientNet '
                         f'("efficientnet-..."): it has {", ".join(sorted(names)[:3])}')
    if any('condconv' in name.lower() for name in own):
        raise InputError(f'{str(path)!r} is of a CondConv network, which is none of ours: give '
                         'the checkpoint of an EfficientNet, EdgeTPU or Lite network')
    scopes = sorted({name.partition('/')[0] for name in own})
    if len(scopes) > 1:
        raise InputError(f'{str(path)!r} holds {len(scopes)} networks ({", ".join(scopes[:3])}), '
                         'and only a checkpoint of one can be read: save them one by one')
    kind, suffix = ('moving average', AVERAGE) if average else ('last weights', '')
    lacking = sorted(name for name in own if name + suffix not in names)
    if lacking:
        other = ('and the published accuracies are those of the averages: take the last weights '
                 'by average=False (tools/convert.py --raw)' if average else
                 'and has only the average there: take that by average=True')
        raise InputError(f'{str(path)!r} has no {kind} of {len(lacking)} of its {len(own)} '
                         f'variables ({", ".join(lacking[:3])}), {other}')
    return {name: name + suffix for name in own}


def _translated(values: Mapping[str, np.ndarray], path) -> dict[str, torch.Tensor]:
    modules = _modules(set(values), path)
    state = {}
    for name, value in values.items():
        layer, _, variable = name.rpartition('/')
        state[f'{modules[layer]}.{VARIABLES[variable]}'] = _as_torch(variable, value)
    refuse(path, absent_blocks(state), ())
    return state


def _modules(names: set[str], path) -> dict[str, str]:
    """Each layer of the file -> efficientnet_pytorch's name of it.

    Raises InputError where the variables are not exactly those of an EfficientNet.
    """
    scope = min(names).partition('/')[0]
    norm = ('tpu_' if any('/tpu_' in name for name in names) else '') + 'batch_normalization'
    places: dict[str, set[str]] = {'stem': set(), 'head': set(), 'blocks_0': set()}
    for name in names:
        place, _, rest = name.removeprefix(f'{scope}/').partition('/')
        places.setdefault(place, set()).add(rest)
    counts = [int(place[7:]) for place in places if re.fullmatch(r'blocks_\d+', place)]
    places |= {f'blocks_{count}': set() for count in range(max(counts))
               if f'blocks_{count}' not in places}
    modules, lacking, beside = {}, set(), set()
    for place, present in places.items():
        chosen, expected = nearest_kind(present, _kinds(place, norm), _variables_of)
        modules |= {f'{scope}/{place}/{layer}': module for layer, module in chosen.items()}
        lacking |= {f'{scope}/{place}/{variable}' for variable in expected - present}
        beside |= {f'{scope}/{place}/{variable}' for variable in present - expected}
    refuse(path, lacking, beside)
    return modules


def _kinds(place: str, norm: str) -> list[dict[str, str]]:
    """What a part of the network can consist of: layer -> efficientnet_pytorch's name."""
    if place == 'stem':
        return [dict(zip(('conv2d', norm), LUKEMELAS.stem))]
    if place == 'head':
        trunk = dict(zip(('conv2d', norm), LUKEMELAS.head))
        return [trunk | {'dense': LUKEMELAS.classifier}, trunk]
    if not re.fullmatch(r'blocks_\d+', place):
        return [{}]
    prefix = LUKEMELAS.block.format(count=int(place[7:]))
    whole = [{layer.format(norm=norm): f'{prefix}.{module}' for layer, module
              in zip(layers, getattr(LUKEMELAS, kind))} for kind, layers in BLOCKS.items()]
    # Lite and EdgeTPU networks have no squeeze-and-excitation.
    return [{layer: module for layer, module in kind.items() if squeeze or layer[:3] != 'se/'}
            for kind in whole for squeeze in (True, False)]


def _variables_of(layer: str) -> tuple[str, ...]:
    if 'batch_normalization' in layer:
        return 'gamma', 'beta', 'moving_mean', 'moving_variance'
    if layer == 'depthwise_conv2d':
        return ('depthwise_kernel', )
    return ('kernel', 'bias') if layer == 'dense' or layer.startswith('se/') else ('kernel', )


def _as_torch(variable: str, value: np.ndarray) -> torch.Tensor:
    if value.ndim == 4:  # (k, k, in, out), and (k, k, channels, 1) where depthwise
        order = (2, 3, 0, 1) if variable == 'depthwise_kernel' else (3, 2, 0, 1)
        value = value.transpose(order)
    elif value.ndim == 2:  # the classifier
        value = value.T
        value = value[1:] if len(value) == BACKGROUND_CLASSES else value
    elif variable == 'bias' and len(value) == BACKGROUND_CLASSES:
        value = value[1:]
    return torch.from_numpy(np.ascontiguousarray(value))
