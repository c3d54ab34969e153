"""What a run that goes on is told of a config that has changed."""
import logging
import re
from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import _ParamScheduler

from mmeffnet.config_text import read_config
from mmeffnet.registry import HOOKS

# What optimizer and schedulers are made from.
MADE_FROM = ('optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'optim_wrapper.constructor',
             'param_scheduler', 'auto_scale_lr', 'train_dataloader.batch_size')
ENDS = re.compile(r'param_scheduler\.(.*\.)?end')  # compared in the schedulers themselves
# What becomes of a setting that is another than it was; the first pattern that fits.
OUTCOMES = (
    (r'train_dataloader\.batch_size', '{field}={wanted} is used; learning rate and schedule stay '
     'those for {kept}, with epochs of the old length'),
    (ENDS.pattern, '{field} of the config, or of train_cfg where it has none, comes to {wanted}: '
     '--resume goes on with {kept} of the checkpoint, after which this schedule changes nothing'),
    (r'.*\.type', '{field}={wanted} goes on with what the checkpoint has of {kept}'),
    (r'param_scheduler', '{field}: of {wanted} only what is beyond the parts of the checkpoint is '
     'new, which were {kept}'),
    (r'.*', '{field}={wanted} of the config is not used: --resume goes on with {kept} of the '
     'checkpoint'))
WAY_OUT = ('; for a training by this config begin with these weights, --cfg-options '
           'load_from={source} in place of --resume')


@HOOKS.register_module()
class ChangedRecipeHook(Hook):
    """Say which settings of a changed config a resumed run does not use.

    MMEngine takes all numbers of optimizer and schedulers from the checkpoint. What they were made
    from goes along with them, since the config of a run that was resumed may have been overruled
    itself; where a checkpoint lacks it, its config is compared.
    """

    def __init__(self):
        self._recipe, self._wanted_ends = None, None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume:
            self._recipe = checkpoint.get('recipe') or recipe(checkpoint['meta'].get('cfg') or '')
            self._wanted_ends = _ends(runner)  # schedulers are still as the config has them

    def before_train(self, runner) -> None:
        present, ends = recipe(runner.cfg.pretty_text), _ends(runner)
        changed = [(field, _short(kept), _short(wanted)) for field, kept, wanted
                   in differences(self._recipe or present, present) if not ENDS.fullmatch(field)]
        for field, kept, wanted in [*changed, *differences(ends, self._wanted_ends or ends)]:
            outcome = next(text for pattern, text in OUTCOMES if re.fullmatch(pattern, field))
            print_log((outcome + WAY_OUT).format(
                field=field, kept=kept, wanted=wanted, source=runner._load_from or 'CHECKPOINT'),
                'current', level=logging.WARNING)
        self._recipe = self._recipe or present

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['recipe'] = self._recipe


def recipe(text: str) -> dict | None:
    """The settings ``MADE_FROM`` of a config's text; None where it cannot be read."""
    tree = read_config(text, {path.partition('.')[0] for path in MADE_FROM}, calls=True)
    if tree is None:
        return None
    scaling = tree.get('auto_scale_lr')
    if not (isinstance(scaling, dict) and scaling.get('enable')):
        tree['auto_scale_lr'] = None  # nothing else in it has an effect then
    found = {}
    for path in MADE_FROM:
        value = tree
        for key in path.split('.'):
            value = value.get(key) if isinstance(value, dict) else None
        found[path] = value
    return found


def differences(kept, wanted, field: str = '') -> Iterator[tuple]:
    """What differs of two nested values: dotted field, and its value in each; None is absent."""
    if isinstance(kept, list) and isinstance(wanted, list) and len(kept) == len(wanted) and all(
            isinstance(item, dict) for item in kept + wanted):
        kept, wanted = dict(enumerate(kept)), dict(enumerate(wanted))
    if isinstance(kept, dict) and isinstance(wanted, dict):
        for key in {**kept, **wanted}:
            yield from differences(kept.get(key), wanted.get(key), f'{field}.{key}'.lstrip('.'))
    elif kept != wanted:
        yield field, kept, wanted


def _ends(runner) -> dict[str, str]:
    """Where the schedules of a runner end, in words, by field."""
    schedulers = runner.param_schedulers or []
    named = schedulers.items() if isinstance(schedulers, dict) else [('', schedulers)]
    return {f'param_scheduler.{name}.{number}.end'.replace('..', '.'):
            f'{scheduler.end} {"epochs" if scheduler.by_epoch else "iterations"}'
            for name, several in named for number, scheduler in enumerate(several)
            if isinstance(scheduler, _ParamScheduler)}


def _short(value) -> str:
    text = 'no value' if value is None else repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
