#!/usr/bin/env python
"""What a step of the optimizer and of the averaged weights costs, beside PyTorch, timm, MMEngine.

Prints the table of docs/benchmarks.md: medians over rounds in which all take turns. The network has
its classifier of 1,000 classes, as in a training.
"""
import argparse
import statistics

import torch
from mmengine.device import get_device
from mmengine.model import ExponentialMovingAverage
from timm.optim import RMSpropTF as TimmRMSpropTF

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.analysis.clock import Clock
from mmeffnet.analysis.complexity import complexity
from mmeffnet.engine.cli import several
from mmeffnet.optim import RampedAverage, RMSpropTF

RULE = dict(lr=1e-4, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5)
OURS = 'optimizer: mmeffnet.RMSpropTF', 'average: mmeffnet.RampedAverage'
COMPILED = 'optimizer: mmeffnet.RMSpropTF, compiled'
TIMM, MMENGINE = 'optimizer: timm RMSpropTF', 'average: MMEngine ExponentialMovingAverage'
SINGLE = 'both: one compiled pass over flat arrays'


def candidates(arch: str, device: str, compiled: bool) -> dict:
    """By name: what is called in a round. Each has a network of its own, with gradients."""
    def compiled_step(params, **rule):
        optimizer = RMSpropTF(params, **rule)
        optimizer.compile()
        return optimizer

    def network():
        torch.manual_seed(0)
        backbone = EfficientNet(arch)
        model = torch.nn.Sequential(backbone, torch.nn.Linear(backbone.out_channels, 1000))
        for param in model.to(device).parameters():
            param.grad = 1e-3 * torch.randn_like(param)
        return model

    rules = {OURS[0]: RMSpropTF,
             'optimizer: torch.optim.RMSprop (foreach)':
                 lambda params, **rule: torch.optim.RMSprop(params, foreach=True, **rule),
             TIMM: TimmRMSpropTF}
    if compiled:
        rules[COMPILED] = compiled_step
    found = {name: rule(network().parameters(), **RULE).step for name, rule in rules.items()}
    for name, make in {
            OURS[1]: lambda model: RampedAverage(model),
            MMENGINE: lambda model: ExponentialMovingAverage(
                model, momentum=1e-4, update_buffers=True)}.items():
        model = network()
        average = make(model)
        found[name] = lambda average=average, model=model: average.update_parameters(model)
    return found


def single_pass(arch: str, device: str):
    """Optimizer and average at once, of as many numbers: what memory and processor would allow."""
    numbers = complexity(VARIANTS[arch].arch, 32).parameters
    torch.manual_seed(0)
    param, grad, total, step, average = (torch.rand(numbers, device=device) for _ in range(5))

    rate = RULE['lr'] / (1 - RULE['alpha']) ** .5

    @torch.compile
    def update():
        decayed = grad + RULE['weight_decay'] * param
        summed = RULE['alpha'] * total + RULE['eps'] + decayed * decayed
        moved = RULE['momentum'] * step + rate * decayed / torch.sqrt(summed)
        total.copy_(summed)
        step.copy_(moved)
        param.sub_(moved)
        average.lerp_(param, 1e-4)

    ours = torch.nn.Parameter(param.clone())
    ours.grad = grad
    optimizer = RMSpropTF([ours], **RULE)
    optimizer.state[ours].update(square_sum=total.clone(), momentum_buffer=step.clone())
    optimizer.step()
    update()
    torch.testing.assert_close(param, ours.detach())
    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='b0', choices=VARIANTS)
    parser.add_argument('--rounds', type=several, default=60)
    parser.add_argument('--compiled', action='store_true', help='beside them our optimizer '
                        'and a single pass for both by torch.compile, which needs a C++ compiler '
                        'on a CPU')
    args = parser.parse_args()
    device = get_device()
    calls = candidates(args.arch, device, args.compiled)
    if args.compiled:
        calls[SINGLE] = single_pass(args.arch, device)
    seconds = Clock(torch.device(device)).in_turns(calls, args.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ours = sum(map(median.get, OURS))
    print(f'{args.arch} on {device}, PyTorch {torch.__version__}, '
          f'{torch.get_num_threads()} threads\n\n'
          '| step | ms | quartiles | of ours |\n|---|---|---|---|')
    mine = dict(zip(('optimizer', 'average', 'both'), (*map(median.get, OURS), ours), strict=True))
    for name in sorted(seconds, key=lambda name: [*mine].index(name.partition(':')[0])):
        low, middle, high = statistics.quantiles(seconds[name], n=4)
        print(f'| {name} | {1000 * middle:.1f} | {1000 * low:.1f} to {1000 * high:.1f} '
              f'| {middle / mine[name.partition(":")[0]]:.2f} |')
    theirs = median[TIMM] + median[MMENGINE]
    print(f'\nBoth of ours take {ours / theirs:.2f} of the time of timm\'s optimizer and '
          "MMEngine's average" + (f', {(median[COMPILED] + median[OURS[1]]) / theirs:.2f} with the '
                                  'optimizer compiled.' if args.compiled else '.'))


if __name__ == '__main__':
    main()
