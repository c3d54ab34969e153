"""The command line of tools/search_coefficients.py."""
from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from mmeffnet.errors import InputError, RunError, check_numbers, one_line_errors


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/search_coefficients.py."""
    result = argparse.ArgumentParser(description='Search alpha, beta and gamma by short trainings.')
    add = result.add_argument
    add('--config', default='quickstart/efficientnet-b0_digits.py', metavar='CONFIG',
        help='data and schedule: a shipped config or a path; the digits by default')
    add('--study', type=Path, default=Path('work_dirs/coefficients'), metavar='DIR',
        help='where the trials are kept; the same again goes on')
    add('--step', type=float, default=0.2, help='of the three coefficients; 0.2 by default')
    add('--tolerance', type=float, default=0.1, metavar='SHARE',
        help='of alpha beta^2 gamma^2 about 2; 0.1 by default')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N')
    add('--epochs', type=int, default=3, metavar='N', help='of each training; 3 by default')
    add('--workers', type=int, default=1, metavar='N',
        help='processes; with CUDA they take the devices in turn')
    add('--budget', type=float, metavar='SECONDS', help='past it no training is begun')
    add('--base-width', type=float, default=0.35, help="of B0's, at phi 0; 0.35 by default")
    add('--base-depth', type=float, default=0.5, help="of B0's, at phi 0; 0.5 by default")
    add('--base-resolution', type=int, default=64, metavar='PX', help='at phi 0; 64 by default')
    add('--classes', type=int, default=10, metavar='N', help='of the data; 10 by default')
    add('--write-family', type=int, metavar='N', help='write configs b0 to bN with the chosen '
        'coefficients into the study')
    return result


def main(argv=None) -> None:
    """tools/search_coefficients.py. Exits with 2 and one line where an argument is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors(go_on='the same command goes on with the trials that are left'):
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise InputError('the search needs optuna, which is not installed. '
                             'Run: pip install optuna') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        run(args, sys.argv[1:] if argv is None else argv)


def run(args: argparse.Namespace, argv) -> None:
    """Search, in as many processes as wanted, then print and write what was found."""
    from mmeffnet.analysis import coefficient_search as search
    from mmeffnet.analysis.scaling_curves import Base
    check_numbers(args, 1, 'epochs', 'workers', 'classes', 'base_resolution')
    check_numbers(args, 0, 'budget')
    base = Base(width=args.base_width, depth=args.base_depth, resolution=args.base_resolution,
                classes=args.classes)
    space = search.candidates(args.step, args.tolerance)
    _rehearse(args, base)
    study = search.open_study(args.study, space, list(dict.fromkeys(args.seeds)),
                              config=args.config, epochs=args.epochs,
                              base=dataclasses.asdict(base))
    try:
        if args.workers > 1:
            _processes(args.workers, list(argv))
        else:
            search.search(study, base, args.config, args.epochs, args.study, args.budget)
    finally:  # a candidate that fails each time must not hide the others
        if 'MMEFFNET_WORKER' not in os.environ:
            print(search.table(study, base), flush=True)
    if 'MMEFFNET_WORKER' in os.environ:
        return
    if args.write_family is not None:
        for path in write_family(args, search.results(study)[0]):
            print(f'written: {path}')


def _rehearse(args: argparse.Namespace, base) -> None:
    """InputError for a base or a config that no trial could have, before a study keeps them."""
    from mmeffnet.analysis import trials
    try:
        arch = base.arch
    except ValueError as error:
        raise InputError(f'--base-width {args.base_width} and --base-depth {args.base_depth}: '
                         f'{error}') from error
    trials.trial_config(args.config, arch, base.resolution, args.epochs, args.seeds[0])
    said = trials.left_out(args.config)
    if said and 'MMEFFNET_WORKER' not in os.environ:
        print(said, flush=True)


def _processes(count: int, argv: list[str]) -> None:
    """The same command once for each worker."""
    import torch
    devices = torch.cuda.device_count()
    # Those that this process was given, by whatever name.
    named = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(devices)))
    code = 'from mmeffnet.analysis.search_cli import main; main()'
    running = []
    for index in range(count):
        env = {**os.environ, 'MMEFFNET_WORKER': str(index)}
        if devices:
            env['CUDA_VISIBLE_DEVICES'] = named.split(',')[index % devices]
        running.append(subprocess.Popen([sys.executable, '-c', code, *argv, '--workers', '1'],
                                        env=env))
    codes = [process.wait() for process in running]
    if any(codes):
        raise RunError(f'{sum(map(bool, codes))} of {count} workers ended with an error (above); '
                       'the same command goes on with what is left')


def write_family(args: argparse.Namespace, best) -> list[Path]:
    """Configs of b0 to bN for ImageNet with the coefficients of ``best``."""
    from mmeffnet.analysis.complexity import complexity
    from mmeffnet.analysis.scaled_config import BASES, Recipe, dropout, write
    from mmeffnet.analysis.targets import Ratio
    from mmeffnet.variants import MBCONV, VARIANTS
    if not best.values:
        raise InputError('--write-family: no training has come to its end yet')
    alpha, beta, gamma = best.candidate
    paths = []
    for phi in range(args.write_family + 1):
        scaling = Ratio(alpha=alpha, beta=beta, gamma=gamma).at(phi)
        arch = scaling.apply(MBCONV)
        paths.append(args.study / 'family' / f'b{phi}.py')
        write(Recipe(arch='b0', scaling=scaling, resolution=scaling.resolution, head=arch.head,
                     dropout=dropout(VARIANTS['b0'],
                                     complexity(arch, scaling.resolution).multiply_adds),
                     base=BASES[MBCONV]), paths[-1])
    return paths
