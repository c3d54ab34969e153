"""Time on a device, and the ceilings that a computation on it cannot pass."""
from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

TURN = {'cuda': 0.05, 'cpu': 0.02}  # seconds that a turn lasts at least, in whole steps
MOST_STEPS = 50


class Clock:
    """Seconds of work on a device: by CUDA's events there, by the processor's clock elsewhere."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == 'cuda'

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def first(self, work: Callable[[], object]) -> float:
        """Seconds of one call, with all that happens on the processor."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def mean(self, work: Callable[[], object], times: int) -> float:
        """Seconds of a call, over ``times`` of them in a row."""
        self.wait()
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(times):
                work()
            return (time.perf_counter() - start) / times
        with torch.cuda.device(self.device):  # on whose stream the events are to be
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(times):
                work()
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / 1000 / times

    def in_turns(self, calls: Mapping[str, Callable[[], object]], rounds: int, warm: int = 3,
                 title: str = 'rounds') -> dict[str, list[float]]:
        """Seconds of each call in each round, in which all take turns; ``warm`` more come first."""
        seconds = {name: [] for name in calls}
        for number in track(range(rounds + warm), title, transient=True):
            for name, call in calls.items():
                taken = self.first(call)
                if number >= warm:
                    seconds[name].append(taken)
        return seconds

    def steps_in_a_turn(self, work: Callable[[], object]) -> int:
        """How many calls fill a turn, after one that is only for warmth."""
        work()
        return max(1, min(MOST_STEPS, math.ceil(TURN[self.device.type] / self.mean(work, 1))))

    def median(self, work: Callable[[], object], rounds: int = 7) -> float:
        """Median seconds of a call, after a warm-up."""
        times = self.steps_in_a_turn(work)
        return statistics.median(self.mean(work, times) for _ in range(rounds))


def bandwidth(clock: Clock) -> float:
    """Bytes per second of a large copy on the device, read and written together."""
    size = 2 ** 30 if clock.cuda else 2 ** 26
    source = torch.ones(size // 4, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / clock.median(lambda: target.copy_(source))


def matrix_rate(clock: Clock, bf16: bool) -> float:
    """Operations per second (two for each multiply-add) of a large matrix product.

    On CUDA float32 is TF32, as convolutions have it where PyTorch is left as it is.
    """
    side = 8192 if clock.cuda else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn((side, side), device=clock.device).to(dtype) for _ in range(2))
    with tf32(True):
        return 2 * side ** 3 / clock.median(lambda: a @ b)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether CUDA may round float32 to TF32 in convolutions and matrix products meanwhile."""
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = allowed
        yield
    finally:
        for kind, was in zip(kinds, before):
            kind.allow_tf32 = was


@torch.no_grad()
def multiply_adds(network: torch.nn.Module, size: int, training: bool) -> int:
    """Multiply-adds of convolutions and matrix products, in a step of one image.

    A layer's backward pass has two products as large as its forward one, or one where the input
    wants no gradient. (PyTorch's own count of a backward pass takes no notice of groups.)
    """
    network = copy.deepcopy(network).to('meta')  # shapes are all that is needed
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    seen = []
    first.register_forward_hook(lambda layer, _, out: seen.append(
        out.numel() * layer.weight[0].numel()))
    with FlopCounterMode(display=False) as counter:
        network(torch.empty((1, 3, size, size), device='meta'))
    forward = counter.get_total_flops() // 2
    return 3 * forward - seen[0] if training else forward
