"""The numbers that MMEngine has written of a run, joined over all its resumptions."""
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from mmeffnet.errors import InputError

SCALARS = 'vis_data/scalars.json'
# What the lines hold beside losses, learning rate and metrics.
ASIDE = {'base_lr', 'data_time', 'time', 'epoch', 'iter', 'memory', 'step'}
# In the log alone.
EPOCH_LENGTH = re.compile(r'Epoch\(train\) *\[\d+\]\[ *\d+/(\d+)\]')
# Whichever comes first: one that was not resumed began anew.
BEGUN = re.compile(r'resumed epoch: \d+, iter: (\d+)|(?:Epoch|Iter)\(train\)')


@dataclass
class Run:
    """One training: its curves by name, each as values by iteration.

    validated: names of the curves that come from validation. epoch_length: iterations of an
    epoch, None where it is not known or there are none. seconds: an estimate of what the
    iterations took, validation and checkpoints aside, see :func:`read_run`.
    """
    name: str
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    validated: list[str] = field(default_factory=list)
    epoch_length: int | None = None
    seconds: float = 0.

    def curve(self, key: str, unit: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Places, as iterations over ``unit``, and values; both empty without such a curve."""
        points = sorted(self.curves.get(key, {}).items())
        steps, values = np.array(points, dtype=float).reshape(-1, 2).T
        return steps / unit, values


def read_run(folder: Path | str, name: str | None = None) -> Run:
    """The run in a work dir, or one part of it: what was done again counts once.

    A training that began anew in the same folder takes the place of what was there. A line of
    the log has the mean time of its last iterations (ten, unless log_processor.window_size says
    otherwise), and that is taken for all since the line before: the others' times are in no file.
    Raises InputError where there are no numbers of a training, or a line cannot be read.
    """
    folder = Path(folder)
    files = sorted(folder.glob(f'*/{SCALARS}')) or list(folder.glob(SCALARS))
    if not files:
        raise InputError(f'run {str(folder)!r} has no */{SCALARS}: give the work dir of a training')
    run, times = Run(name or folder.resolve().name), {}
    for path in files:
        lines = _lines(path)
        training = [line for line in lines if 'iter' in line]
        begun = _in_log(path.parents[1], BEGUN)
        if not training and begun is None:
            continue  # a test has been run in this folder
        if begun is None:  # without its log
            begun = training[0]['iter'] - 1
        # What was written after the checkpoint that this part goes on from is done again.
        _cut(run, times, begun + 1)
        if training:  # else this part made the validation alone that the one before owed
            run.epoch_length = _in_log(path.parents[1], EPOCH_LENGTH)
        _join(run, lines, done=max(times, default=0))
        times.update((line['iter'], line.get('time', 0.)) for line in training)
    if not times:
        raise InputError(f'run {str(folder)!r} was never trained: its scalars.json has no '
                         'iterations')
    run.seconds = sum(times[step] * (step - before)
                      for before, step in pairwise([0, *sorted(times)]))
    return run


def _cut(run: Run, times: dict[int, float], start: int) -> None:
    """Drop what comes at or after an iteration, and the curves that nothing is left of."""
    for points in (*run.curves.values(), times):
        for step in [step for step in points if step >= start]:
            del points[step]
    run.curves = {key: points for key, points in run.curves.items() if points}
    run.validated = [key for key in run.validated if key in run.curves]


def _join(run: Run, lines: list[Mapping], done: int) -> None:
    """Add the lines of one file.

    done: iterations of the run so far, after which a file may begin with a validation.
    """
    for line in lines:
        trained = 'iter' in line
        if trained:
            done = line['iter']
        at = done if trained else _iteration(line['step'], done, run.epoch_length)
        for key, value in line.items():
            if key not in ASIDE and isinstance(value, (int, float)):
                run.curves.setdefault(key, {})[at] = value
                if not trained and key not in run.validated:
                    run.validated.append(key)


def _iteration(step: int, done: int, epoch_length: int | None) -> int:
    """Where a validation stands that is counted in epochs, in iterations, or not at all.

    It was made after the last line of the training, and a few iterations after that at most.
    """
    places = (step * (epoch_length or 0), step)
    return min((place for place in places if place >= done), default=done)


def _lines(path: Path) -> list[dict]:
    lines, found = path.read_text(encoding='utf-8', errors='replace').splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError('no numbers by name')
        except ValueError as error:
            if number == len(lines):
                break  # of a run that was killed while it wrote
            raise InputError(f'{path}, line {number}: {line[:60]!r} is not a JSON object: remove '
                             'the line') from error
        found.append(entry)
    return [entry for entry in found if 'step' in entry]


def _in_log(folder: Path, pattern: re.Pattern) -> int | None:
    """The number that the first line of the log with the pattern tells, 0 if it tells none."""
    for log in sorted(folder.glob('*.log')):
        with log.open(encoding='utf-8', errors='replace') as file:
            for line in file:
                if match := pattern.search(line):
                    return int(match[1] or 0)
    return None
