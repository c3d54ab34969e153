#!/usr/bin/env python
"""What a step of the optimizer and of the averaged weights costs, beside PyTorch, timm, MMEngine.

Prints the table of docs/benchmarks.md: medians over rounds in which all take turns.
"""
import argparse
import statistics
import time

import torch
from mmengine.device import get_device
from mmengine.model import ExponentialMovingAverage
from rich.progress import track
from timm.optim import RMSpropTF as TimmRMSpropTF

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.engine.cli import several
from mmeffnet.optim import RampedAverage, RMSpropTF

RULE = dict(lr=1e-4, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5)


def candidates(arch: str, device: str) -> dict:
    """By name: what is called in a round. Each has a network of its own, with gradients."""
    def network():
        torch.manual_seed(0)
        model = EfficientNet(arch).to(device)
        for param in model.parameters():
            param.grad = 1e-3 * torch.randn_like(param)
        return model

    rules = {'optimizer: mmeffnet.RMSpropTF': RMSpropTF,
             'optimizer: torch.optim.RMSprop (foreach)':
                 lambda params, **rule: torch.optim.RMSprop(params, foreach=True, **rule),
             'optimizer: timm RMSpropTF': TimmRMSpropTF}
    found = {name: rule(network().parameters(), **RULE).step for name, rule in rules.items()}
    for name, make in {
            'average: mmeffnet.RampedAverage': lambda model: RampedAverage(model),
            'average: MMEngine ExponentialMovingAverage': lambda model: ExponentialMovingAverage(
                model, momentum=1e-4, update_buffers=True)}.items():
        model = network()
        average = make(model)
        found[name] = lambda average=average, model=model: average.update_parameters(model)
    return found


def measure(calls: dict, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each round, after three to warm up."""
    seconds = {name: [] for name in calls}
    for number in track(range(rounds + 3), 'rounds'):
        for name, call in calls.items():
            if device == 'cuda':
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == 'cuda':
                torch.cuda.synchronize()
            if number >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='b0', choices=VARIANTS)
    parser.add_argument('--rounds', type=several, default=60)
    args = parser.parse_args()
    device = get_device()
    seconds = measure(candidates(args.arch, device), args.rounds, device)
    print(f'{args.arch} on {device}, PyTorch {torch.__version__}, '
          f'{torch.get_num_threads()} threads\n\n'
          '| step | ms | quartiles | of ours |\n|---|---|---|---|')
    for kind in ('optimizer', 'average'):
        names = [name for name in seconds if name.startswith(kind)]
        for name in names:
            low, middle, high = statistics.quantiles(seconds[name], n=4)
            ratio = middle / statistics.median(seconds[names[0]])
            print(f'| {name} | {1000 * middle:.1f} | {1000 * low:.1f} to {1000 * high:.1f} '
                  f'| {ratio:.2f} |')


if __name__ == '__main__':
    main()
