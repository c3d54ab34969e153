"""Fitting weights to the network that is to have them: what may differ, and what may not."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from mmengine.logging import print_log

from mmeffnet.arch import Arch
from mmeffnet.errors import InputError
from mmeffnet.variants import variant_of
from mmeffnet.weights.layouts import BACKBONE, CLASSIFIER, conv_shapes
from mmeffnet.weights.settings import BATCH_NORM_EPS
from mmeffnet.weights.translate import TIMM_EPS, Weights
from mmeffnet.weights.values import COUNTERS, few, size_of, warn_of_values

STEM = f'{BACKBONE}layers.0.conv.weight'
CLASSIFIER_KEYS = (f'{CLASSIFIER}.weight', f'{CLASSIFIER}.bias')


def fit(weights: Weights, expected: Mapping[str, torch.Tensor], arch: Arch, *,
        new_classes: bool = True, unused: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """The weights as the network takes them, checked key by key.

    expected: the network's tensors under our keys ('backbone.layers...', 'head.fc...'); a
    backbone alone has no classifier, and the weights' own is then left out, in one line.
    new_classes: drop, in one line, a classifier of another class count; False refuses it.
    unused: prefixes of layers that never run, and may be missing in the file.
    Raises InputError naming the keys and, where the shapes tell, the variant of the file.
    """
    check_variant(weights, arch)
    state = dict(weights.state)
    if STEM in state and STEM in expected:
        state[STEM] = fit_stem(state[STEM], expected[STEM].shape[1], weights.source)
    _fit_classifier(state, expected, weights.source, new_classes)
    wrong = [other_shape(key, tensor.shape, expected[key].shape) for key, tensor in state.items()
             if key in expected and tensor.shape != expected[key].shape]
    _refuse(weights, wrong, 'does not fit the model: {keys}')
    _refuse(weights, [key for key in state if key not in expected],
            'has {count} tensors that the model has no place for: {keys}')
    may_lack = COUNTERS + (CLASSIFIER_KEYS if new_classes else ())
    _refuse(weights, [key for key in expected if key not in state
                      and not key.endswith(may_lack) and not key.startswith(unused)],
            'lacks {count} tensors of the model: {keys}'
            + ('' if weights.classes else '; it holds a backbone alone'))
    warn_of_values(state, weights.source)
    return state


def fit_stem(kernel: torch.Tensor, channels: int, source: str) -> torch.Tensor:
    """A stem for RGB as one for another number of channels: (C_out, 3, k, k) -> (C_out, N, k, k).

    One channel gets the sum over RGB, which for a grey image is the same; N channels get RGB
    again and again, times 3 / N, so that activations keep their size.
    """
    if kernel.shape[1] == channels:
        return kernel
    if kernel.shape[1] != 3:
        raise InputError(f'{source!r} has a stem for {kernel.shape[1]} channels, and the network '
                         f'one for in_channels={channels}: only a stem for RGB can be changed')
    print_log(f'{source}: the stem for RGB is made one for {channels} channels', 'current')
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeats = -(-channels // 3)
    return kernel.repeat(1, repeats, 1, 1)[:, :channels] * (3 / channels)


def _fit_classifier(state, expected, source: str, new_classes: bool) -> None:
    found, wanted = (mapping.get(CLASSIFIER_KEYS[0]) for mapping in (state, expected))
    if found is None:
        if wanted is not None and new_classes:
            print_log(f'{source} has no classifier: it starts anew', 'current',
                      level=logging.WARNING)
        return
    if wanted is None:
        note = 'the backbone takes no classifier'
    elif len(found) != len(wanted) and new_classes:
        note = f'it has {len(found)} classes and the model {len(wanted)}, so it starts anew'
    else:
        return
    dropped = [key for key in CLASSIFIER_KEYS if state.pop(key, None) is not None]
    print_log(f'{source}: {" and ".join(dropped)} left out, {note}', 'current')


def check_variant(weights: Weights, arch: Arch) -> None:
    """Refuse other kernels; an architecture may differ in what no tensor of it tells."""
    ours = variant_of(arch)
    if weights.variant and weights.variant != ours and (
            conv_shapes(weights.arch) != conv_shapes(arch)):
        built = f'builds {ours!r}' if ours else 'builds another architecture'
        raise InputError(
            f'checkpoint {weights.source!r} is of variant {weights.variant!r}, and the config '
            f'{built}: give a config with arch={weights.variant!r}, or another file')


def _refuse(weights: Weights, keys: list[str], problem: str) -> None:
    if keys:
        known = f' (variant {weights.variant!r})' if weights.variant else ''
        raise InputError(f'checkpoint {weights.source!r}{known} '
                         + problem.format(keys=few(keys), count=len(keys)))


def other_shape(key: str, found: Iterable[int], wanted: Iterable[int]) -> str:
    """What is wrong with a tensor of another shape, for messages."""
    return f'{key} is {size_of(found)} and has to be {size_of(wanted)}'


def warn_of_numerics(weights: Weights, *, padding: str | None, eps: float | None) -> None:
    """One warning where the network pads or normalises otherwise than the weights' own, or where
    nothing tells theirs and both are usual.

    padding, eps: of the network; None where it has layers of the user's choice.
    """
    both = [('padding', weights.padding, padding), ('BatchNorm eps', weights.eps, eps)]
    differ = [f'{name} {theirs} where the model has {ours}' for name, theirs, ours in both
              if theirs is not None and ours is not None and theirs != ours]
    if differ:
        print_log(f'{weights.source} was trained with {" and ".join(differ)}: outputs will be '
                  'off. Set backbone.' + _remedy(weights.padding, weights.eps), 'current',
                  level=logging.WARNING)
    elif padding and unsaid(weights):
        other = 'symmetric' if padding == 'same' else 'same'
        print_log(f"{weights.source} {unsaid(weights)}: the model's, {padding}, is assumed. If it "
                  f'is {other}, outputs will be off: set backbone.{_remedy(other)}',
                  'current', level=logging.WARNING)


def unsaid(weights: Weights) -> str | None:
    """What is not known of weights in timm's keys, which its networks of either padding have."""
    if weights.layout != 'timm' or weights.padding:
        return None
    return ("does not tell its padding: timm's tf_efficientnet_* have same padding and a BatchNorm "
            'eps of 1e-3, its efficientnet_* symmetric padding and 1e-5')


def _remedy(padding: str | None, eps: float | None = None) -> str:
    conv = "conv_cfg=dict(type='Conv2d')" if padding == 'symmetric' else 'conv_cfg=None'
    # Another type, such as SyncBN, is to stay.
    return (f"{conv}, norm_cfg=dict(type='BN', eps={eps or TIMM_EPS.get(padding, BATCH_NORM_EPS):g}"
            '), or eps alone where norm_cfg has a type')
