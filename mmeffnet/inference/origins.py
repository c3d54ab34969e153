"""Where a network's settings come from: its set, its file or its variant; and who is told."""
from __future__ import annotations

import logging
from collections.abc import Sequence

from mmengine.logging import print_log

from mmeffnet.errors import InputError
from mmeffnet.weights.fit import unsaid
from mmeffnet.weights.settings import BATCH_NORM_EPS
from mmeffnet.weights.trained import other_parts


def numerics(weights) -> tuple[str, float]:
    """Padding, 'same' or 'symmetric', and BatchNorm's epsilon of a network for ``weights``."""
    return weights.padding or 'same', weights.eps or BATCH_NORM_EPS


def refuse_other_models(weights) -> None:
    """InputError for a training whose model computes something else, though its tensors fit."""
    _refuse(weights, other_parts(weights))


def refuse_other_heads(weights) -> None:
    """InputError for a training whose model has no classifier of ours, but something else."""
    _refuse(weights, [part for part in weights.stated.get('parts', ())
                      if part.startswith(('model.type=', 'model.head.type='))
                      and not part.endswith('=None')])


def _refuse(weights, parts: Sequence[str]) -> None:
    if parts:
        raise InputError(f'{weights.source}: its training had {" and ".join(parts)}, and what '
                         'predicts is an ImageClassifier of EfficientNet, GlobalAveragePooling '
                         'and a linear head: use tools/test.py with its config')


def refuse_unknown_networks(weights) -> None:
    """InputError for weights of no variant whose file leaves open what no variant says."""
    stated = weights.stated
    missing = [what for what, known in (
        ('the architecture', 'arch' in stated), ('the size of its input', 'input' in stated),
        ('its normalisation', weights.norm or 'norm' in stated)) if not known]
    if missing and not weights.variant:
        raise InputError(f'{weights.source}: these are the weights of no published variant, and '
                         f'{" and ".join(missing)} cannot be told from the file: use tools/test.py '
                         'with their config')


def own_names(weights) -> tuple[str, ...] | None:
    """The names of the classes that a training's checkpoint states, one for each output."""
    names = weights.stated.get('names')
    return names if names and len(names) == weights.classes else None


def tell(weights, settings, names: tuple[str, ...] | None) -> None:
    """Print which settings are the file's own, and which are assumed; and what cannot be had.

    names: of the classes, None where they were given.
    """
    source, norm, stated = weights.source, settings.norm, weights.stated
    padding, eps = numerics(weights)
    told = [(f'{settings.resolution} px', 'input' in stated),
            (f'mean {norm.mean}, std {norm.std}', bool(weights.norm or stated.get('norm'))),
            (f'{settings.channel_order.upper()} input', 'channel_order' in stated),
            (f'{padding.upper()} padding', weights.padding is not None),
            (f'BatchNorm eps {eps:g}', weights.eps is not None)]
    if names and not names[0].startswith('class 0'):
        told.append(('names of the classes', names == own_names(weights)))
    own, assumed = ([text for text, is_own in told if is_own is side] for side in (True, False))
    parts = [f'{what} {", ".join(texts)}' for what, texts in (
        ('its own are', own),
        (f'assumed, as for {weights.variant or "ImageNet"}, are', assumed)) if texts]
    print_log(f'{source} is no published set: {"; ".join(parts)}', 'current')
    if unsaid(weights):
        print_log(f'{source} {unsaid(weights)}: tools/convert.py --padding writes a file that says '
                  'it', 'current', level=logging.WARNING)
    unread = list(stated.get('unread', ()))
    if stated.get('names') and len(stated['names']) != weights.classes:
        unread.append(f'the {len(stated["names"])} class names for {weights.classes} classes')
    if unread:
        print_log(f'{source}: of its training {" and ".join(unread)} cannot be followed here: what '
                  'is printed may differ from what tools/test.py with its config gives',
                  'current', level=logging.WARNING)
