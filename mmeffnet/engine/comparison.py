"""Several runs side by side, from the numbers that MMEngine writes into each work dir."""
import json
import math
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from mmeffnet.engine.plots import blank_figure, save_figure
from mmeffnet.errors import InputError, one_line_errors

# Told apart by every kind of colour vision (Okabe and Ito), then once more with dashes.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':')
TITLES = {'loss': 'Training loss', 'lr': 'Learning rate'}
# What every line of a training's log holds beside its losses.
ASIDE = {'base_lr', 'data_time', 'time', 'epoch', 'iter', 'memory', 'step'}


@dataclass
class Run:
    """One work dir: its name, and each number by name as steps and values.

    Numbers of the training are kept by iteration, those of validation by epoch or iteration, as
    MMEngine has counted them. epoch_length: iterations of an epoch, None without epochs.
    """
    name: str
    trained: dict[str, dict[int, float]] = field(default_factory=dict)
    validated: dict[str, dict[int, float]] = field(default_factory=dict)
    epoch_length: int | None = None
    seconds: float = 0.

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Places in epochs, or iterations without them, and values."""
        points = self.trained.get(key) or self.validated.get(key) or {}
        steps = np.array(sorted(points), dtype=float)
        if key in self.trained and self.epoch_length:
            steps /= self.epoch_length
        return steps, np.array([points[step] for step in sorted(points)], dtype=float)


def read_run(folder: Path | str, name: str | None = None) -> Run:
    """The run in a work dir, with all its resumptions: what was done again counts once.

    Raises InputError where no numbers are in it, or a line of them cannot be read.
    """
    files = sorted(Path(folder).glob('*/vis_data/scalars.json'))
    if not files:
        raise InputError(f'run {str(folder)!r} has no */vis_data/scalars.json: give the work dir '
                         'of a training')
    run, times = Run(name or Path(folder).name), {}
    for path in files:
        lines = _lines(path)
        training = [line for line in lines if 'loss' in line]
        if not training:
            continue  # a test has been run in this folder
        # What was written after the checkpoint that this part goes on from is done again.
        first = training[0]
        _forget([*run.trained.values(), times], first['iter'])
        _forget(run.validated.values(), first.get('epoch', first['iter']))
        for line in lines:
            numbers = run.trained if 'loss' in line else run.validated
            for key, value in line.items():
                if key not in ASIDE and isinstance(value, (int, float)):
                    numbers.setdefault(key, {})[line['step']] = value
        times.update((line['iter'], line.get('time', 0.)) for line in training)
        if 'epoch' in first:
            # The last iteration of each epoch is logged.
            run.epoch_length = max(math.ceil(line['iter'] / line['epoch']) for line in training)
    if not times:
        raise InputError(f'run {str(folder)!r} was never trained: its scalars.json holds no loss')
    run.seconds = sum(times[step] * (step - before)
                      for before, step in pairwise([0, *sorted(times)]))
    return run


def _lines(path: Path) -> list[dict]:
    lines = path.read_text(encoding='utf-8').splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break  # of a run that was killed while it wrote
            raise InputError(f'{path}, line {number}: {line[:60]!r} is not JSON: remove the '
                             'line') from error
    return [line for line in found if 'step' in line]


def _forget(curves: Iterable[dict[int, float]], start: int) -> None:
    """Drop what comes at or after a step."""
    for points in curves:
        for step in [step for step in points if step >= start]:
            del points[step]


def default_keys(runs: list[Run]) -> list[str]:
    """Loss, the first number of validation that all runs have, and the learning rate."""
    common = [key for key in runs[0].validated if all(key in run.validated for run in runs)]
    return [key for key in ('loss', *common[:1], 'lr') if all(len(r.curve(key)[0]) for r in runs)]


def check_keys(runs: list[Run], keys: list[str]) -> None:
    """Raises InputError for a number that no run has, with those that there are."""
    for key in keys:
        if not any(len(run.curve(key)[0]) for run in runs):
            known = sorted({key for run in runs for key in (*run.trained, *run.validated)})
            raise InputError(f'--keys {key!r} is in none of the runs: they have {", ".join(known)}')


def best(run: Run, key: str) -> tuple[float, float]:
    """The best value and its place: the largest, of losses and errors the smallest."""
    steps, values = run.curve(key)
    down = any(word in key.lower() for word in ('loss', 'error'))
    index = int(np.nanargmin(values) if down else np.nanargmax(values))
    return values[index], steps[index]


def table(runs: list[Run], keys: list[str]) -> str:
    """A Markdown table: how far each run came, how long it took, last and best numbers."""
    keys = [key for key in keys if key != 'lr']
    rows = ['| run | epochs | time | ' + ' | '.join(f'{key}: last, best (at)' for key in keys)
            + ' |', '|---' * (3 + len(keys)) + '|']
    for run in runs:
        cells = []
        for key in keys:
            steps, values = run.curve(key)
            if len(values):
                value, place = best(run, key)
                cells.append(f'{values[-1]:.4g}, {value:.4g} ({place:.3g})')
            else:
                cells.append('-')
        done = max(run.trained['loss']) / (run.epoch_length or 1)
        unit = '' if run.epoch_length else ' iterations'
        hours, minutes = divmod(round(run.seconds / 60), 60)
        rows.append(f'| {run.name} | {done:.3g}{unit} | {hours}:{minutes:02d} h | '
                    + ' | '.join(cells) + ' |')
    return '\n'.join(rows)


def draw(runs: list[Run], keys: list[str], path: Path) -> None:
    """One panel for each number, with all runs in it."""
    units = {'epoch' if run.epoch_length else 'iteration' for run in runs}
    figure = blank_figure(4.4 * len(keys), 3.6 + 0.22 * math.ceil(len(runs) / len(keys)))
    panels = figure.subplots(1, len(keys), squeeze=False)[0]
    for axes, key in zip(panels, keys):
        for index, run in enumerate(runs):
            width = 2.6 - 1.4 * index / max(1, len(runs) - 1)  # equal curves stay visible
            steps, values = run.curve(key)
            style = dict(color=COLOURS[index % len(COLOURS)],
                         linestyle=DASHES[index // len(COLOURS) % len(DASHES)])
            axes.plot(steps, values, label=run.name, linewidth=width, **style,
                      marker='o' if len(values) < 30 and key in run.validated else None,
                      markersize=3.5)
        axes.set_title(TITLES.get(key, key + (' (%)' if 'accuracy' in key else '')))
        axes.set_xlabel(' or '.join(sorted(units)))
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center',
                  ncols=min(len(runs), max(2, len(keys))), frameon=False)
    save_figure(figure, path)


def parser() -> ArgumentParser:
    """Arguments of tools/compare_runs.py."""
    result = ArgumentParser(description='Draw several runs together and print where they ended.')
    result.add_argument('runs', nargs='+', metavar='RUN', help='the work dir of a training')
    result.add_argument('--out', type=Path, default=Path('work_dirs/compare_runs.png'),
                        metavar='FILE', help='the picture; work_dirs/compare_runs.png by default')
    result.add_argument('--keys', nargs='+', metavar='KEY', help='what to draw, such as loss '
                        'accuracy/top1 lr; by default these, where all runs have them')
    result.add_argument('--names', nargs='+', metavar='NAME', help='one for each run; by default '
                        'the last part of its path')
    return result


def main(argv=None) -> None:
    """Run the tool. Exits with 2 and one line where the input is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        if args.names and len(args.names) != len(args.runs):
            raise InputError(f'--names has {len(args.names)} names for {len(args.runs)} runs: '
                             'give one for each')
        runs = list(map(read_run, args.runs, args.names or [None] * len(args.runs)))
        keys = args.keys or default_keys(runs)
        check_keys(runs, keys)
        print(table(runs, keys))
        draw(runs, keys, args.out)
    print(f'Picture: {args.out}')
