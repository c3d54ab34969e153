#!/usr/bin/env python
"""What waiting threads and memory that is handed back cost a training on a CPU.

Measures a step of B0 alone and beside other work, and prints the table of docs/benchmarks.md.
Settings take turns, each in a process of its own; the busy neighbour spins on one core of this
machine.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.progress import track

from mmeffnet.engine.cli import positive

SPIN = {'GOMP_SPINCOUNT': '10000'}
SETTINGS = {
    'as PyTorch starts': {},
    '`OMP_WAIT_POLICY=PASSIVE`': {'OMP_WAIT_POLICY': 'PASSIVE'},
    'one thread': {'OMP_NUM_THREADS': '1'},
    '`GOMP_SPINCOUNT=10000`': SPIN,
    'the same and freed memory kept': {**SPIN, 'MALLOC_MMAP_MAX_': '0',
                                       'MALLOC_TRIM_THRESHOLD_': '-1'},
}
CLEARED = ('OMP_', 'GOMP_', 'MALLOC_')


def measure(batch: int, pixels: int, steps: int) -> tuple[float, float, int]:
    """In this process: median ms of a forward and backward pass, page faults, peak MiB."""
    import resource

    import torch

    from mmeffnet import EfficientNet
    torch.manual_seed(0)
    network = EfficientNet(arch='b0').to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, pixels, pixels).to(memory_format=torch.channels_last)
    seconds, faults = [], []
    for _ in range(steps + 2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        network.zero_grad()
        network(images)[0].mean().backward()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return (1e3 * statistics.median(seconds[2:]), statistics.median(faults[2:]),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def run(command: list[str], environment: dict, busy: bool) -> tuple[float, ...]:
    """What :func:`measure` gives in a process with this environment."""
    neighbour = subprocess.Popen(['taskset', '-c', '1', 'sh', '-c', 'while :; do :; done']
                                 if busy else ['true'])
    try:
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE,
                                text=True).stdout
    finally:
        neighbour.kill()
        neighbour.wait()
    return tuple(map(float, output.split()[-3:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=positive, default=2)
    parser.add_argument('--steps', type=positive, default=4)
    parser.add_argument('--batch', type=positive, default=16)
    parser.add_argument('--pixels', type=positive, default=224)
    parser.add_argument('--here', action='store_true', help='measure in this process, print it')
    args = parser.parse_args()
    if args.here:
        print(*measure(args.batch, args.pixels, args.steps))
        return
    clean = {k: v for k, v in os.environ.items() if not k.startswith(CLEARED)}
    command = [sys.executable, '-W', 'ignore', __file__, '--here', '--steps', str(args.steps),
               '--batch', str(args.batch), '--pixels', str(args.pixels)]
    found = {(name, busy): [] for name in SETTINGS for busy in (False, True)}
    turns = [(key, seen) for _ in range(args.rounds) for key, seen in found.items()]
    for (name, busy), seen in track(turns, 'measuring', console=Console(stderr=True)):
        seen.append(run(command, {**clean, **SETTINGS[name]}, busy))
    print('| setting | ms alone | ms busy | page faults | peak MiB |\n|---|---|---|---|---|')
    for name in SETTINGS:
        alone, busy = ([ms for ms, _, _ in found[name, way]] for way in (False, True))
        _, faults, peaks = zip(*found[name, False], strict=True)
        cells = (f'{min(some):,.0f} to {max(some):,.0f}' for some in (alone, busy, faults, peaks))
        print(f'| {name} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
