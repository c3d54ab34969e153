"""The command line of tools/benchmark.py."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from mmeffnet.analysis import speed_report as report
from mmeffnet.analysis.contenders import LEAN, LIBRARIES, NAMES, OURS, OURS_DEPLOYED
from mmeffnet.analysis.speed import LEAST_ROUNDS, Benchmark, Plan, measure_ceilings
from mmeffnet.analysis.speed_chart import chart
from mmeffnet.analysis.speed_rows import Baseline, Row
from mmeffnet.analysis.steps import INFER, TRAIN, Setting
from mmeffnet.arch import nearest
from mmeffnet.errors import InputError, check_numbers, one_line_errors
from mmeffnet.inference.network import choose_device
from mmeffnet.inference.run import output_folder
from mmeffnet.variants import VARIANTS

SETTINGS = {
    'cpu': ['eager', 'channels_last'],
    'cuda': ['eager', 'channels_last', 'bf16+channels_last', 'bf16+channels_last+compile',
             'bf16+channels_last+graphs'],
}
DESCRIPTION = """Compare the speed, memory and traffic of EfficientNets of several libraries.

All have the same random weights, and their outputs are compared with ours first. They take
turns. A training step is the forward pass in train mode (dropout and drop path off), cross
entropy with smoothed labels and the backward pass, without an optimizer."""


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/benchmark.py."""
    result = argparse.ArgumentParser(description=DESCRIPTION,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument('--variants', nargs='+', default=['b0'], metavar='NAME',
                        help='such as b0 b3; b0 by default')
    result.add_argument('--device', help="'cpu' or 'cuda'; CUDA where there is one")
    result.add_argument('--batch', nargs='+', type=int, default=[1, 16], metavar='N',
                        help='images in a step; 1 and 16 by default')
    result.add_argument('--mode', nargs='+', choices=[INFER, TRAIN], default=[INFER, TRAIN],
                        help='both by default')
    result.add_argument('--against', nargs='*', choices=[*LIBRARIES], default=[*LIBRARIES],
                        help='libraries beside ours; all by default')
    result.add_argument('--settings', nargs='+', metavar='NAME',
                        help='eager, or some of channels_last, bf16, cast, compile, graphs joined '
                        'by +; a choice for the device by default')
    result.add_argument('--deploy', action='store_true',
                        help='ours as switch_to_deploy() leaves it too, in inference')
    result.add_argument('--lean', action='store_true',
                        help='ours with memory_efficient, and with fast_gradients as well, too, '
                        'in training')
    result.add_argument('--size', type=int, metavar='PX',
                        help="side of the images; each variant's own by default")
    result.add_argument('--rounds', type=int, default=10, metavar='N',
                        help='turns of each candidate; 10 by default, at least 3')
    result.add_argument('--budget', type=float, metavar='SECONDS',
                        help='shared among variants, modes and batches: past it no candidate is '
                        'begun, and no round after the third')
    result.add_argument('--baseline', metavar='LIBRARY[:SETTING]',
                        help='a further column: times over those of this one, in the same '
                        'setting or in the one that is named')
    result.add_argument('--out', type=Path, metavar='DIR',
                        help='where speed.csv and speed.png go; they are not written without')
    return result


def main(argv=None) -> None:
    """tools/benchmark.py. Exits with 2 and one line where an argument is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        plan = plan_of(args)
        baseline = baseline_of(args.baseline, plan, lambda line: print(line, file=sys.stderr))
        run(plan, baseline, output_folder(args.out) if args.out else None)


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the arguments mean; InputError for those that are wrong."""
    for variant in args.variants:
        if variant not in VARIANTS:
            raise InputError(f'--variants {variant!r} is no variant{nearest(variant, VARIANTS)} '
                             f'(known: {", ".join(VARIANTS)})')
    for name, least in dict(batch=1, size=32, rounds=LEAST_ROUNDS, budget=0).items():
        check_numbers(args, least, name)
    for flag, given, mode in (('--deploy', args.deploy, INFER), ('--lean', args.lean, TRAIN)):
        if given and mode not in args.mode:
            raise InputError(f'{flag} is for --mode {mode}, and {" ".join(args.mode)} is asked for')
    device = choose_device(args.device)
    if device.type not in SETTINGS:
        raise InputError(f'--device {str(device)!r}: the benchmark knows {" and ".join(SETTINGS)}')
    settings = [Setting(name) for name in args.settings or SETTINGS[device.type]]
    if device.type != 'cuda' and any('graphs' in setting for setting in settings):
        raise InputError(f'--settings graphs needs CUDA, and the device is {device.type!r}')
    if TRAIN in args.mode and any('cast' in setting for setting in settings):
        raise InputError('--settings cast is for --mode infer: bfloat16 weights do not train')
    return Plan(variants=unique(args.variants), modes=unique(args.mode),
                batches=unique(args.batch), settings=unique(settings),
                libraries=unique(args.against), device=device, size=args.size,
                rounds=args.rounds, budget=args.budget, deploy=args.deploy,
                lean=args.lean)


def unique(values: list) -> list:
    """Each value once, in order: a candidate that is named twice is one."""
    return list(dict.fromkeys(values))


def baseline_of(text: str | None, plan: Plan, say: Callable[[str], None]) -> Baseline | None:
    """'timm' or 'timm:eager' as library and setting; None where that library is not installed.

    say: is told of that. Raises InputError for what the plan does not measure.
    """
    if text is None:
        return None
    library, _, setting = text.partition(':')
    if library not in NAMES:
        raise InputError(f'--baseline {text!r}: {library!r} is no library{nearest(library, NAMES)} '
                         f'(known: {", ".join(NAMES)})')
    name = Setting(setting, '--baseline').name if setting else None
    flag, installed_as = _asked_by(library, plan)
    if flag:
        raise InputError(f'--baseline {text!r}: {library} is not measured; add it by {flag}')
    if name and name not in (measured := [setting.name for setting in plan.settings]):
        raise InputError(f'--baseline {text!r}: {name!r} is none of the settings that are measured '
                         f'({", ".join(measured)}): choose one of them, or add it to --settings')
    if installed_as and find_spec(installed_as) is None:
        say(f'--baseline {text!r}: {installed_as} is not installed, and there is no column of it')
        return None
    return Baseline(library, name)


def _asked_by(library: str, plan: Plan) -> tuple[str | None, str | None]:
    """The flag that is missing for a library to be measured, and the package that it needs."""
    if library == OURS:
        return None, None
    for flag, given, names in (('--deploy', plan.deploy, [OURS_DEPLOYED]),
                               ('--lean', plan.lean, LEAN)):
        if library in names:
            return None if given else flag, None
    # Ours with symmetric padding comes with the library that it is compared with.
    package = next(name for name, known in LIBRARIES.items() if library in (name, known.reference))
    return None if package in plan.libraries else f'--against {package}', package


def run(plan: Plan, baseline: Baseline | None = None, out: Path | None = None) -> list[Row]:
    """Measure, and print and write what there is after each group; gives all rows."""
    rows = []
    with speaking() as (say, tell), _same_sizes(plan.device):
        tell('measuring the ceilings of the device', 0)
        ceilings = measure_ceilings(plan.device, plan.settings)
        header = report.header(plan.device, ceilings)
        say(f'{header}\n', sys.stdout)
        for group in Benchmark(plan, say, tell).groups():
            if not group:
                continue
            rows += group
            say(f'{report.table(group, ceilings, baseline)}\n', sys.stdout)
            if out:
                report.write_csv(rows, ceilings, baseline, out / 'speed.csv')
                chart(rows, header, out / 'speed.png')
    if not rows:
        raise InputError('nothing could be measured: the lines above say why')
    return rows


@contextmanager
def _same_sizes(device: torch.device):
    """On CUDA, let cuDNN choose the fastest convolutions, as for images of one size."""
    before = torch.backends.cudnn.benchmark
    if device.type == 'cuda' and device.index is not None:
        torch.cuda.set_device(device)
    try:
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def speaking():
    """A bar that says what is being done, on a terminal, and a way to print beside it."""
    console = Console(stderr=True)
    bar = Progress(BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                   TextColumn('{task.description}', markup=False), console=console,
                   transient=True, disable=not console.is_terminal,
                   redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task('starting', total=1)

    def say(text: str, file=None) -> None:
        bar.stop()
        print(text, file=file or sys.stderr, flush=True)
        bar.start()

    with bar:
        yield say, lambda text, share: bar.update(task, description=text, completed=share)
