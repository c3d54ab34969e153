"""Several runs side by side: tools/compare_runs.py."""
import math
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mmeffnet.engine.history import Run, read_run
from mmeffnet.engine.plots import best, blank_figure, save_figure, smooth
from mmeffnet.errors import InputError, one_line_errors

# Told apart by every kind of colour vision (Okabe and Ito), then once more with dashes.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':')
MOST_RUNS = len(COLOURS) * len(DASHES)
TITLES = {'loss': 'Training loss', 'lr': 'Learning rate'}
MANY = 200  # points of a curve that is smoothed
LETTERS = 54  # of the legend below a panel
WIDE = 100  # times the lowest loss: above it a linear axis would press the others flat


def common_unit(runs: Sequence[Run]) -> str:
    """What all runs can be drawn over: 'epoch', or 'iteration' if one has no epochs."""
    return 'epoch' if all(run.epoch_length for run in runs) else 'iteration'


def curve(run: Run, key: str, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``unit`` and values."""
    return run.curve(key, run.epoch_length if unit == 'epoch' else 1)


def default_keys(runs: Sequence[Run]) -> list[str]:
    """Loss, up to two numbers of validation, and learning rate: those that all runs have."""
    return [key for key in ('loss', *runs[0].validated[:2], 'lr')
            if all(key in run.curves for run in runs)]


def check_keys(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Raises InputError for a number that no run has, with those that there are."""
    for key in keys:
        if not any(key in run.curves for run in runs):
            known = sorted({name for run in runs for name in run.curves})
            raise InputError(f'--keys {key!r} is in none of the runs: they have {", ".join(known)}')


def table(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """A Markdown table: how far each run came, about how long its steps took, last and best
    numbers."""
    unit, keys = common_unit(runs), [key for key in keys if key != 'lr']
    head = ['run', f'{unit}s', 'time of steps (estimated)',
            *(f'{key}: last, best ({unit})' for key in keys)]
    rows = [head, ['---'] * len(head)]
    for run in runs:
        minutes, seconds = divmod(round(run.seconds), 60)
        done = max(curve(run, key, unit)[0][-1] for key in run.curves)
        cells = [run.name, f'{done:.6g}', f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}']
        for key in keys:
            steps, values = curve(run, key, unit)
            value, place = best(steps, values, key)
            cells.append(f'{values[-1]:.4g}, {value:.4g} ({place:.4g})' if len(values) else '-')
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('| ' + ' | '.join(map(str.ljust, row, widths)) + ' |' for row in rows)


def draw(runs: Sequence[Run], keys: Sequence[str], path: Path) -> None:
    """Write a PNG with one panel for each number and all runs in it."""
    lines = math.ceil(len(keys) / 3)
    columns = math.ceil(len(keys) / lines)
    longest = max(len(run.name) for run in runs) + 8  # with the sample of its line
    beside = max(1, min(len(runs), LETTERS * columns // longest))
    figure = blank_figure(4.6 * columns, 3.4 * lines + 0.25 * math.ceil(len(runs) / beside))
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, key in zip(panels, keys, strict=False):
        curves = _panel(axes, runs, key)
    for axes in panels:  # the rest of the last line
        axes.remove()
    # Each is named afterwards: matplotlib leaves out labels that begin with _.
    legend = figure.legend(curves, [f'run {index}' for index in range(len(runs))],
                           loc='outside lower center', ncols=beside, frameon=False)
    for text, run in zip(legend.get_texts(), runs, strict=True):
        text.set(text=run.name, parse_math=False)
    save_figure(figure, path)


def _panel(axes: Axes, runs: Sequence[Run], key: str) -> list[Line2D]:
    """Draw one number of all runs; gives the line of each."""
    unit, title = common_unit(runs), TITLES.get(key, key)
    lines, losses = [], []
    for index, run in enumerate(runs):
        steps, values = curve(run, key, unit)
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
        validated = key in run.validated
        colour = COLOURS[index % len(COLOURS)]
        if not validated and key != 'lr':
            losses.append(values)
            if len(values) > MANY:
                axes.plot(steps, values, color=colour, alpha=0.15, linewidth=0.6)
                values = smooth(values, len(values) // 50)
                title = f'{TITLES.get(key, key)}, smoothed'
        lines += axes.plot(steps, values, color=colour,
                           linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
                           linewidth=2.2 - index / len(runs),  # what lies below stays visible
                           marker='o' if validated and len(values) < 30 else None, markersize=3.5)
    shown = np.concatenate(losses) if losses else np.zeros(0)
    if len(shown) and shown.min() > 0 and shown.max() > WIDE * shown.min():
        axes.set_yscale('log')
    axes.set_title(f'{title} (%)' if 'accuracy' in key else title, parse_math=False)
    axes.set_xlabel(unit)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    return lines


def parser() -> ArgumentParser:
    """Arguments of tools/compare_runs.py."""
    result = ArgumentParser(description='Draw several runs together and print where they ended.')
    result.add_argument('runs', nargs='+', metavar='RUN', help='the work dir of a training, or '
                        'the folder of one start in it')
    result.add_argument('--out', type=Path, default=Path('work_dirs/compare_runs.png'),
                        metavar='FILE', help='the picture; work_dirs/compare_runs.png by default')
    result.add_argument('--keys', nargs='+', metavar='KEY', help='what to draw; by default loss, '
                        'two numbers of validation and lr, where all runs have them')
    result.add_argument('--names', nargs='+', metavar='NAME', help='one for each run; by default '
                        'the last part of its path, or all of it where two are alike')
    return result


def _names(runs: Sequence[str], given: Sequence[str] | None) -> Sequence[str]:
    names = given or [Path(run).resolve().name for run in runs]
    if len(names) != len(runs):
        raise InputError(f'--names has {len(names)} names for {len(runs)} runs: give one for each')
    if len(runs) > MOST_RUNS:
        raise InputError(f'{len(runs)} runs in one picture: only {MOST_RUNS} can be told apart')
    if len(set(names)) == len(names):
        return names
    if given:
        raise InputError('--names has one name twice: give each run its own')
    return runs


def main(argv=None) -> None:
    """Run the tool. Exits with 2 and one line where the input is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        names = _names(args.runs, args.names)
        if args.out.suffix != '.png':
            raise InputError(f'--out {str(args.out)!r}: the picture is written as .png')
        runs = list(map(read_run, args.runs, names))
        keys = args.keys or default_keys(runs)
        check_keys(runs, keys)
        try:
            draw(runs, keys, args.out)
        except OSError as error:
            raise InputError(f'--out {str(args.out)!r} cannot be written: {error.strerror}'
                             ) from error
    print(table(runs, keys))
    print(f'Picture: {args.out}')
