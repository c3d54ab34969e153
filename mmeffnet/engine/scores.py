"""Scores that the best checkpoint is chosen by: names that a validation has none of are refused."""
import math
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import torch

from mmeffnet.errors import InputError, RunError


def check_wanted(keys: Iterable[str], metrics: Iterable) -> None:
    """Refuse a score that metrics will not give, where they can tell: before anything is trained.

    metrics: those of the validation. What they give is known where all of a score's prefix say so
    by ``score_names()``, as :class:`mmeffnet.evaluation.Accuracy` does: other metrics and the
    loops themselves may give more. It is asked and not imported: a config that is not there is
    told before mmpretrain is loaded.
    """
    metrics = list(metrics)
    for key in keys:
        prefix, slash, _ = key.rpartition('/')
        alike = [m for m in metrics if slash and getattr(m, 'prefix', None) == prefix]
        given = [getattr(metric, 'score_names', list)() for metric in alike]
        if alike and all(given) and key not in chain(*given):
            classes = len(alike[0].dataset_meta['classes'])
            raise InputError(f'checkpoint.save_best={key!r}: val_evaluator with its topk gives '
                             f'{", ".join(chain(*given))} for {classes} classes; name one of '
                             'these, or change topk')


def check_given(keys: Iterable[str], scores: Mapping) -> None:
    """End a run whose validation gives other scores, or several numbers in place of one: its last
    checkpoint still owes that validation."""
    numbers = [name for name, value in scores.items() if _is_number(value)]
    first = next(iter(scores), None)  # what ``auto`` means to MMEngine
    for key in keys:
        name = first if key == 'auto' else key
        if name in numbers or name in scores and scores[name] is None:  # it waits for a number
            continue
        wrong = f'{name!r} is no single number, and ' if name in scores else ''
        gives = ('no single number; set default_hooks.checkpoint.save_best=None' if not numbers
                 else f'{", ".join(numbers)}; name one of these')
        auto = ', or auto for the first' if first in numbers else ''
        raise RunError(f'checkpoint.save_best={key!r}: {wrong}the validation gives {gives}{auto}, '
                       'and go on with --resume')


def _is_number(value) -> bool:
    """Or something else that has one value and is no text."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return math.prod(value.shape) == 1
    return not isinstance(value, (str, Iterable))
