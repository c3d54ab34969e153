#!/usr/bin/env python
"""Whether torch.compile gives what the eager networks give, in one graph for all batches.

Compiles each variant as a whole, on the CPU in float64, and compares logits, gradients and running
statistics. Exit code 1 where one disagrees. A variant takes minutes, the largest much longer.
"""
import argparse
import sys

from mmeffnet.analysis.compiled import MOST_GRAPHS, TOLERANCE, agreement
from mmeffnet.analysis.steps import INFER, TRAIN
from mmeffnet.engine.cli import positive
from mmeffnet.errors import one_line_errors
from mmeffnet.variants import VARIANTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--variants', nargs='+', default=[*VARIANTS], choices=VARIANTS,
                        metavar='NAME', help='all by default')
    parser.add_argument('--mode', nargs='+', default=[INFER, TRAIN], choices=[INFER, TRAIN],
                        help='both by default')
    parser.add_argument('--batch', nargs='+', type=positive, default=[2, 3, 5], metavar='N',
                        help='images of the steps, in this order; 2, 3 and 5 by default')
    parser.add_argument('--size', type=positive, default=64, metavar='PX', help='64 by default')
    parser.add_argument('--backend', default='inductor', choices=['inductor', 'aot_eager', 'eager'],
                        help="PyTorch's; inductor by default")
    args = parser.parse_args()
    with one_line_errors(ValueError):  # BatchNorm's, of images too few or too small to train with
        return compare(args)


def compare(args: argparse.Namespace) -> int:
    print('| network | mode | graphs | logits | gradients | statistics | s to compile |\n'
          '|---|---|--:|--:|--:|--:|--:|', flush=True)
    failed = []
    for variant in args.variants:
        for mode in args.mode:
            found = agreement(variant, mode, args.batch, args.size, args.backend)
            print(f'| {variant} | {mode} | {found.graphs} | {found.outputs:.0e} | '
                  f'{found.gradients:.0e} | {found.statistics:.0e} | {found.seconds:.0f} |',
                  flush=True)
            if not found.holds:
                failed.append(f'{variant} ({mode})')
    if failed:
        print(f'{", ".join(failed)}: more than {MOST_GRAPHS} graphs, or more than {TOLERANCE:.0e} '
              'apart', file=sys.stderr)
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())
