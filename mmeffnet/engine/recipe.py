"""What a run that goes on is told of a config that has changed."""
import inspect
import logging
import math
import re
from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import _ParamScheduler

from mmeffnet.config_text import read_config
from mmeffnet.registry import HOOKS, OPTIMIZERS, PARAM_SCHEDULERS

PARTS = ('optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'train_dataloader')  # of a config
# What an optimizer is made from, in an ``optim_wrapper`` or each of several by name.
OPTIMIZER = ('optimizer', 'paramwise_cfg', 'constructor')
ENDS = re.compile(r'param_scheduler\.(.*\.)?end')  # compared in the schedulers themselves
# What becomes of a setting that is another than it was; the first pattern that fits.
OUTCOMES = (
    (r'train_dataloader\.images_per_step', '{wanted} images make a step (processes x batch_size x '
     'accumulated batches); learning rate and schedule stay those of the checkpoint, for {kept} '
     'and epochs of the old length: auto_scale_lr scales nothing here, whatever is logged of it'),
    (r'train_dataloader\.batch_size', '{field}={wanted} is used; learning rate and schedule stay '
     'those for {kept}, with epochs of the old length'),
    (ENDS.pattern, '{field} of the config, or of train_cfg where it has none, comes to {wanted}: '
     '--resume goes on with {kept} of the checkpoint, after which this schedule changes nothing'),
    (r'.*\.type', '{field}={wanted} goes on with what the checkpoint has of {kept}'),
    (r'param_scheduler(\.\w+)?', '{field}={wanted} where the checkpoint has {kept}: schedules that '
     'both have go on as they were, those that the config alone has begin, those that it lacks '
     'have ended'),
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
            kept = checkpoint.get('recipe')
            ours = isinstance(kept, dict) and kept.keys() == set(PARTS)
            self._recipe = kept if ours else recipe(checkpoint['meta'].get('cfg'))
            self._wanted_ends = _ends(runner)  # schedulers are still as the config has them

    def before_train(self, runner) -> None:
        present, ends = recipe(runner.cfg.pretty_text, runner.world_size), _ends(runner)
        before = self._recipe or present
        changed = [(field, _short(kept), _short(wanted)) for field, kept, wanted
                   in (_comparable(before, present) if present else ())
                   if not ENDS.fullmatch(field)]
        for field, kept, wanted in [*changed, *differences(ends, self._wanted_ends or ends)]:
            outcome = next(text for pattern, text in OUTCOMES if re.fullmatch(pattern, field))
            print_log((outcome + WAY_OUT).format(
                field=field, kept=kept, wanted=wanted, source=runner._load_from or 'CHECKPOINT'),
                'current', level=logging.WARNING)
        if present:
            schedules = _in_use(before['param_scheduler'], present['param_scheduler'])
            before = before | dict(param_scheduler=schedules)
        self._recipe = before

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['recipe'] = self._recipe


def recipe(text: str, processes: int | None = None) -> dict | None:
    """What optimizers and schedulers of a config's text are made from; None if it cannot be read.

    processes: how many of them train by it, where that is known.
    """
    tree = read_config(text, PARTS, calls=True)
    if tree is None:
        return None
    wrapper, scaling, loader = (tree.get(name) if isinstance(tree.get(name), dict) else {} for name
                                in ('optim_wrapper', 'auto_scale_lr', 'train_dataloader'))
    return dict(
        optim_wrapper=_optimizers(wrapper), param_scheduler=_schedules(tree.get('param_scheduler')),
        auto_scale_lr=scaling if scaling.get('enable') else None,  # which else has no effect
        train_dataloader=_batches(loader, wrapper, processes))


def _batches(loader: dict, wrapper: dict, processes: int | None) -> dict:
    """The batch size, and what makes a step where it is one number."""
    batch = dict(batch_size=loader.get('batch_size'))
    factors = [processes, batch['batch_size'], wrapper.get('accumulative_counts', 1)]
    plain = 'optimizer' in wrapper and all(isinstance(factor, int) for factor in factors)
    return batch | (dict(images_per_step=math.prod(factors)) if plain else {})


def _optimizers(wrapper: dict) -> dict:
    return {key: value if key in OPTIMIZER else _optimizers(value)
            for key, value in wrapper.items()
            if key in OPTIMIZER or isinstance(value, dict) and 'optimizer' in value}


def _schedules(given) -> list | dict[str, list]:
    """Schedules as a list; of several optimizers one for each by its name."""
    if isinstance(given, dict) and 'type' not in given:
        return {name: _schedules(value) for name, value in given.items()}
    return list(given) if isinstance(given, (list, tuple)) else [given] if given else []


def _in_use(kept, wanted):
    """The schedules of a run that goes on from ``kept`` with a config of ``wanted``."""
    if isinstance(wanted, dict):
        return {name: _in_use(kept.get(name, []) if isinstance(kept, dict) else [], value)
                for name, value in wanted.items()}
    return [*kept[:len(wanted)], *wanted[len(kept):]] if isinstance(kept, list) else wanted


def _comparable(kept: dict, wanted: dict) -> Iterator[tuple]:
    """What differs of two recipes: of the images of a step, where both say how many they are."""
    both = all('images_per_step' in one['train_dataloader'] for one in (kept, wanted))
    other = f'train_dataloader.{"batch_size" if both else "images_per_step"}'
    return (found for found in differences(kept, wanted) if found[0] != other)


def differences(kept, wanted, field: str = '') -> Iterator[tuple]:
    """What differs of two nested values: dotted field, and its value in each; None is absent.

    An argument that one of two equal types leaves out is what their class has for it.
    """
    if isinstance(kept, list) and isinstance(wanted, list) and all(
            isinstance(item, dict) for item in kept + wanted):
        if len(kept) != len(wanted):
            yield field, kept, wanted
        both = list(zip(kept, wanted))
        kept, wanted = ({number: pair[side] for number, pair in enumerate(both)} for side in (0, 1))
    if isinstance(kept, dict) and isinstance(wanted, dict):
        if kept.get('type') == wanted.get('type'):
            kept, wanted = _completed(kept, wanted)
        for key in {**kept, **wanted}:
            yield from differences(kept.get(key), wanted.get(key), f'{field}.{key}'.lstrip('.'))
    elif _tuples(kept) != _tuples(wanted):
        yield field, kept, wanted


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _completed(*given: dict) -> list[dict]:
    """Settings of one class with what it takes for those that are left out."""
    sides = [{**_defaults(given[0].get('type')), **side} for side in given]
    if not any(side.get('eta_min_ratio') for side in sides):
        for side in sides:  # MMEngine's cosine writes None and means 0
            side.update({'eta_min': 0.} if side.get('eta_min', 0.) is None else {})
    return sides


def _defaults(name) -> dict:
    """What the class of an optimizer or a schedule takes for arguments that are left out."""
    kind = (OPTIMIZERS.get(name) or PARAM_SCHEDULERS.get(name)) if isinstance(name, str) else None
    bases = reversed(kind.__mro__) if isinstance(kind, type) else ()
    return {argument.name: argument.default for base in bases if '__init__' in vars(base)
            for argument in inspect.signature(base.__init__).parameters.values()
            if isinstance(argument.default, (int, float, str, tuple, type(None)))}


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
