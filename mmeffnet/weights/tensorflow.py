"""Reading TensorFlow checkpoints of the TPU code, in the layout of efficientnet_pytorch."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mmeffnet.errors import InputError
from mmeffnet.weights.files import need

AVERAGE = '/ExponentialMovingAverage'
# What optimizers keep beside a variable, under its name.
SLOTS = re.compile(r'/(RMSProp(_\d+)?|Momentum|Adam(_\d+)?)$')
VARIABLES = {'kernel': 'weight', 'depthwise_kernel': 'weight', 'bias': 'bias', 'gamma': 'weight',
             'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
NORM = re.compile(r'(?:tpu_)?batch_normalization(?:_(\d+))?')
BACKGROUND_CLASSES = 1001  # ImageNet's after a background class


def read_tensorflow(path, average: bool = True) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of the TPU code: EfficientNet, EdgeTPU or Lite.

    path: the prefix ('model.ckpt'), one of its files, or their folder. average: take the moving
    averages, which the published accuracies are of, and refuse a checkpoint without them;
    False takes the last weights. A head of 1001 classes loses the first, the background.
    Raises InputError for a checkpoint that is damaged, or not of such a network.
    Source: the variable names are those of efficientnet_model.py in the reference TPU code.
    """
    tf = need('tensorflow', 'tensorflow')
    prefix = _prefix(Path(path))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = set(reader.get_variable_to_shape_map())
        chosen = _choose(names, average, path)
        values = {name: reader.get_tensor(stored) for name, stored in chosen.items()}
    except (ValueError, IndexError, tf.errors.OpError) as error:
        raise InputError(f'{str(path)!r} is no whole TensorFlow checkpoint '
                         f'({" ".join(str(error).split())[:120]}): copy or download it again, '
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
    """Each variable of the network -> the one that is read for it."""
    own = {name for name in names if name.startswith('efficientnet')
           and not name.endswith(AVERAGE) and not SLOTS.search(name)}
    if not own:
        raise InputError(f'{str(path)!r} holds no variables of an EfficientNet '
                         f'("efficientnet-..."): it has {", ".join(sorted(names)[:3])}')
    if any('condconv' in name.lower() for name in own):
        raise InputError(f'{str(path)!r} is of a CondConv network, which is none of ours')
    if not average:
        return {name: name for name in own}
    lacking = sorted(name for name in own if name + AVERAGE not in names)
    if lacking:
        raise InputError(f'{str(path)!r} has no moving average of {len(lacking)} of its '
                         f'{len(own)} variables ({lacking[0]}, ...), and the published accuracies '
                         'are those of the averages: take the last weights by average=False '
                         '(tools/convert.py --raw)')
    return {name: name + AVERAGE for name in own}


def _translated(values: Mapping[str, np.ndarray], path) -> dict[str, torch.Tensor]:
    depthwise = {_block(name) for name in values if 'depthwise' in name}
    expanded = {_block(name) for name in values
                if _block(name) in depthwise and name.endswith('/conv2d_1/kernel')
                and '/se/' not in name}
    state, unknown = {}, []
    for name, value in values.items():
        _, place, *layers, variable = name.split('/')
        module = _module('/'.join(layers), place, _block(name) in depthwise,
                         _block(name) in expanded)
        if module is None or variable not in VARIABLES:
            unknown.append(name)
            continue
        state[f'{module}.{VARIABLES[variable]}'] = _as_torch(variable, value)
    if unknown:
        raise InputError(f'{str(path)!r} has {len(unknown)} variables that no EfficientNet of ours '
                         f'has: {", ".join(sorted(unknown)[:3])}')
    return state


def _block(name: str) -> str:
    return name.split('/')[1]


def _module(layer: str, place: str, depthwise: bool, expanded: bool) -> str | None:
    """efficientnet_pytorch's name of a layer, None for one that is unknown."""
    norm = NORM.fullmatch(layer)
    if place == 'stem':
        return '_bn0' if norm else {'conv2d': '_conv_stem'}.get(layer)
    if place == 'head':
        return '_bn1' if norm else {'conv2d': '_conv_head', 'dense': '_fc'}.get(layer)
    number = re.fullmatch(r'blocks_(\d+)', place)
    if not number:
        return None
    if norm:
        # TensorFlow counts a block's norms as they come; efficientnet_pytorch leaves 0 to the
        # expansion, and so do our fused blocks, whose first convolution expands.
        count = int(norm[1] or 0) + (depthwise and not expanded)
        return f'_blocks.{number[1]}._bn{count}'
    if not depthwise:
        convs = ('_fused_conv', '_project_conv')
    elif expanded:
        convs = ('_expand_conv', '_project_conv')
    else:
        convs = ('_project_conv', )
    names = {'depthwise_conv2d': '_depthwise_conv', 'se/conv2d': '_se_reduce',
             'se/conv2d_1': '_se_expand', **dict(zip(('conv2d', 'conv2d_1'), convs))}
    inner = names.get(layer)
    return inner and f'_blocks.{number[1]}.{inner}'


def _as_torch(variable: str, value: np.ndarray) -> torch.Tensor:
    if value.ndim == 4:
        order = (2, 3, 0, 1) if variable == 'depthwise_kernel' else (3, 2, 0, 1)
        value = value.transpose(order)
    elif value.ndim == 2:  # the classifier
        value = value.T
        value = value[1:] if len(value) == BACKGROUND_CLASSES else value
    elif variable == 'bias' and len(value) == BACKGROUND_CLASSES:
        value = value[1:]
    return torch.from_numpy(np.ascontiguousarray(value))
