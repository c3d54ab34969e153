"""The command line of tools/scaling_curves.py."""
from __future__ import annotations

import argparse
from pathlib import Path

from mmeffnet.analysis import scaling_curves as curves
from mmeffnet.errors import InputError, check_numbers, one_line_errors
from mmeffnet.inference.run import output_folder


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/scaling_curves.py."""
    result = argparse.ArgumentParser(
        description='Train networks that are scaled one way or all ways, and draw the curves.')
    add = result.add_argument
    add('--config', default='quickstart/efficientnet-b0_digits.py', metavar='CONFIG',
        help='data and schedule: a shipped config or a path; the digits by default')
    add('--out', type=Path, default=Path('work_dirs/scaling-curves'), metavar='DIR',
        help='where runs.csv and curves.png go; runs that are there are not repeated')
    add('--times', type=float, nargs='+', default=[1, 2, 4, 8], metavar='N',
        help='costs as multiples of the base; 1 2 4 8 by default')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N')
    add('--epochs', type=int, default=3, metavar='N', help='of each training; 3 by default')
    add('--budget', type=float, default=float('inf'), metavar='SECONDS',
        help='past it no training is begun')
    add('--draw', type=Path, metavar='CSV', help='train nothing: print and draw these runs')
    return result


def main(argv=None) -> None:
    """tools/scaling_curves.py. Exits with 2 and one line where an argument is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table and draw the picture."""
    check_numbers(args, 1, 'epochs')
    check_numbers(args, 0, 'budget')
    if any(not 1 <= times <= 1000 for times in args.times):
        raise InputError(f'--times {args.times} must be from 1 to 1000')
    path = args.draw or args.out / 'runs.csv'
    if args.draw and not args.draw.is_file():
        raise InputError(f'--draw {str(args.draw)!r} does not exist')
    output_folder(str(args.out))
    if not args.draw:
        from mmeffnet.analysis.trials import left_out
        base = curves.Base()
        wanted = curves.points(base, sorted({1, *args.times}))
        if said := left_out(args.config):
            print(said, flush=True)
        for done in curves.trained(base, args.config, wanted, args.seeds, args.epochs, path,
                                   args.budget):
            print(f'{done.point.direction} {done.point.times:g}x, seed {done.seed}: '
                  f'{done.top1:.2f} % in {done.seconds:.0f} s', flush=True)
    runs = curves.read(path)
    if not runs:
        begun = '' if args.draw else f': no training was begun within --budget {args.budget:g}'
        raise InputError(f'{path}: no runs to draw{begun}')
    counts = sorted({seeds for _, _, seeds in curves.summary(runs).values()})
    seeds = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    print(curves.table(runs))
    curves.draw(runs, f'{runs[0].epochs} epochs of {Path(runs[0].config).stem}, {seeds} seeds; '
                'bars: standard error', args.out / 'curves.png')
    print(f'drawn: {args.out / "curves.png"}')
