"""Scores that the best checkpoint is chosen by: names that a validation has none of are refused."""
from collections.abc import Iterable, Mapping
from itertools import chain

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
    """End a run whose validation gives other scores: its last checkpoint still owes that one."""
    for key in keys:
        if key != 'auto' and key not in scores:
            raise RunError(f'checkpoint.save_best={key!r}: the validation gives '
                           f'{", ".join(scores)}; name one of these, or auto for the first, and go '
                           'on with --resume')
