"""Scores that the best checkpoint is chosen by: names that a validation has none of are refused."""
from collections.abc import Iterable, Mapping

from mmeffnet.errors import InputError, RunError


def check_wanted(keys: Iterable[str], metrics: Iterable) -> None:
    """Refuse a score that metrics will not give, where they can tell: before anything is trained.

    metrics: those of the validation. What one has to tell are its ``names``, as
    :class:`mmeffnet.evaluation.Accuracy` does; of a score of another metric nothing is known.
    """
    metrics = list(metrics)
    for key in keys:
        prefix = key.rpartition('/')[0]
        alike = [m for m in metrics if getattr(m, 'prefix', None) == prefix] or metrics
        if key != 'auto' and alike and all(hasattr(metric, 'names') for metric in alike):
            given = [name for metric in alike for name in metric.names()]
            if key not in given:
                kinds = {len((metric.dataset_meta or {}).get('classes') or ()) for metric in alike}
                classes = f' for {max(kinds)} classes' if any(kinds) else ''
                raise InputError(f'checkpoint.save_best={key!r}: val_evaluator with its topk gives '
                                 f'{", ".join(given)}{classes}; name one of these, or change topk')


def check_given(keys: Iterable[str], scores: Mapping) -> None:
    """End a run whose validation gives other scores: its last checkpoint still owes that one."""
    for key in keys:
        if key != 'auto' and key not in scores:
            raise RunError(f'checkpoint.save_best={key!r}: the validation gives '
                           f'{", ".join(scores)}; name one of these, or auto for the first, and go '
                           'on with --resume')
