#!/usr/bin/env python
"""How waiting threads cost a CPU training: a step of B0 alone and beside other work.

Prints the table of docs/benchmarks.md. Settings take turns, each in a process of its own;
the busy neighbour spins on one core of this machine.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    'as PyTorch starts them': {},
    '`GOMP_SPINCOUNT=10000`': {'GOMP_SPINCOUNT': '10000'},
    '`OMP_WAIT_POLICY=PASSIVE`': {'OMP_WAIT_POLICY': 'PASSIVE'},
    'one thread': {'OMP_NUM_THREADS': '1'},
}


def measure(batch: int, pixels: int, steps: int) -> float:
    """Median seconds of a forward and backward pass in this process."""
    import torch

    from mmeffnet import EfficientNet
    torch.manual_seed(0)
    network, images = EfficientNet(arch='b0'), torch.randn(batch, 3, pixels, pixels)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        network.zero_grad()
        network(images)[0].mean().backward()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--here', action='store_true', help='measure in this process, print it')
    args = parser.parse_args()
    if args.here:
        print(measure(args.batch, args.pixels, args.steps))
        return
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'GOMP_'))}
    command = [sys.executable, '-W', 'ignore', __file__, '--here', '--steps', str(args.steps),
               '--batch', str(args.batch), '--pixels', str(args.pixels)]
    found = {(name, busy): [] for name in SETTINGS for busy in (False, True)}
    for turn in range(args.rounds):
        for (name, busy), seconds in found.items():
            print(f'round {turn + 1}: {name}, {"busy" if busy else "alone"}', file=sys.stderr)
            neighbour = subprocess.Popen(['taskset', '-c', '1', 'sh', '-c', 'while :; do :; done']
                                         if busy else ['true'])
            try:
                output = subprocess.run(command, env={**clean, **SETTINGS[name]}, check=True,
                                        capture_output=True, text=True).stdout
            finally:
                neighbour.kill()
                neighbour.wait()
            seconds.append(float(output.split()[-1]))
    print('| threads | alone | busy |\n|---|---|---|')
    for name in SETTINGS:
        cells = (f'{min(s):.2f} to {max(s):.2f} s' for s in (found[name, False],
                                                             found[name, True]))
        print(f'| {name} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
