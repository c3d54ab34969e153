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
EPOCH_LENGTH = re.compile(r'Epoch\(train\) *\[\d+\]\[ *\d+/(\d+)\]')  # in the log alone


@dataclass
class Run:
    """One training: its curves by name, each as values by iteration.

    validated: names of the curves that come from validation. epoch_length: iterations of an
    epoch, None where it is not known or there are none. seconds: what the iterations took,
    validation and checkpoints aside.
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

    A training that began anew in the same folder takes the place of what was there.
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
        if not training:
            continue  # a test has been run in this folder
        # What was written after the checkpoint that this part goes on from is done again.
        _cut(run, times, training[0]['iter'])
        run.epoch_length = _epoch_length(path.parents[1])
        _join(run, lines)
        times.update((line['iter'], line.get('time', 0.)) for line in training)
    if not times:
        raise InputError(f'run {str(folder)!r} was never trained: its scalars.json has no '
                         'iterations')
    # Each line has the mean over the iterations since the one before.
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


def _join(run: Run, lines: list[Mapping]) -> None:
    """Add the lines of one file. Validation is counted in epochs there, or not at all."""
    done = 0
    for line in lines:
        trained = 'iter' in line
        if trained:
            done = line['iter']
        at = line['step'] * run.epoch_length if run.epoch_length and not trained else done
        for key, value in line.items():
            if key not in ASIDE and isinstance(value, (int, float)):
                run.curves.setdefault(key, {})[at] = value
                if not trained and key not in run.validated:
                    run.validated.append(key)


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


def _epoch_length(folder: Path) -> int | None:
    """Iterations of an epoch, by the first line of the log that tells them."""
    for log in sorted(folder.glob('*.log')):
        with log.open(encoding='utf-8', errors='replace') as file:
            for line in file:
                if match := EPOCH_LENGTH.search(line):
                    return int(match[1])
    return None
