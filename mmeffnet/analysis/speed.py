"""Times, memory and traffic of EfficientNets of several libraries, measured in turns."""
from __future__ import annotations

import copy
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from mmeffnet.analysis import clock as clocks
from mmeffnet.analysis.compiler import compiling, forget, warm
from mmeffnet.analysis.contenders import Contender, contenders, relative
from mmeffnet.analysis.steps import TRAIN, Setting, Step, batch_for
from mmeffnet.errors import one_line
from mmeffnet.variants import VARIANTS

LEAST_ROUNDS = 3
# What one step gives may differ from ours in float32 by this share of the largest value.
LOOSE = {False: 2e-2, True: 0.2}  # by whether it is in bfloat16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. size: pixels, None for each variant's own. budget: seconds, or None."""
    variants: Sequence[str]
    modes: Sequence[str]
    batches: Sequence[int]
    settings: Sequence[Setting]
    libraries: Sequence[str]
    device: torch.device
    size: int | None = None
    rounds: int = 10
    budget: float | None = None


@dataclass(kw_only=True)
class Row:
    """What was found about one candidate; None where it does not apply.

    seconds: of a step, one for each round. moved, saved, peak: bytes. fused: whether ``moved``
    is what the compiler says of its kernels.
    """
    variant: str
    mode: str
    batch: int
    size: int
    setting: Setting
    library: str
    reference: str
    gap: float
    first: float
    moved: int | None = None
    saved: int | None = None
    peak: int | None = None
    macs: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the seconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return low, high

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.batch / self.median


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Bytes a second of a copy; operations a second of a matrix product, by bfloat16 or not."""
    bandwidth: float
    matrix: dict[bool, float]


def measure_ceilings(device: torch.device, settings: Sequence[Setting]) -> Ceilings:
    """The ceilings in the precisions that the settings use."""
    clock = clocks.Clock(device)
    precisions = sorted({'bf16' in setting for setting in settings})
    found = Ceilings(bandwidth=clocks.bandwidth(clock), matrix={
        bf16: clocks.matrix_rate(clock, bf16) for bf16 in precisions})
    _tidy(device)
    return found


class Benchmark:
    """Runs a plan; ``groups`` gives the rows of one variant, mode and batch at a time.

    say: told of all that is left out, a line each. Every candidate of a group is kept ready and
    they take turns, in an order drawn anew for each round, so that a machine that slows down
    slows all of them. advance: told what is being done, for a progress bar.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None],
                 advance: Callable[[str], None] = lambda text: None):
        self.plan, self.say, self.advance = plan, say, advance
        self.clock = clocks.Clock(plan.device)
        self.start = time.monotonic()

    def groups(self) -> Iterator[list[Row]]:
        plan = self.plan
        if any('compile' in setting for setting in plan.settings):
            self.advance('the compiler')
            warm(plan.device)
        total = len(plan.variants) * len(plan.modes) * len(plan.batches)
        for variant in plan.variants:
            self.advance(f'{variant}: building')
            networks = contenders(variant, plan.libraries, self.say)
            for mode in plan.modes:
                for batch in plan.batches:
                    # What the budget still has is shared among the groups that are left.
                    share = self._left() / total
                    total -= 1
                    yield self._group(variant, mode, batch, networks, time.monotonic() + share)
                    forget()
                    _tidy(plan.device)

    def _left(self) -> float:
        if self.plan.budget is None:
            return float('inf')
        return max(0.0, self.start + self.plan.budget - time.monotonic())

    def _group(self, variant, mode, batch, networks: list[Contender], deadline) -> list[Row]:
        size = self.plan.size or VARIANTS[variant].resolution
        images, labels = batch_for(size, batch, self.plan.device)
        macs = clocks.multiply_adds(networks[0].network, images[:1].cpu(), mode == TRAIN) * batch
        expected = self._expected(networks, images, labels, mode)
        ready = []
        for setting in self.plan.settings:
            for contender in networks:
                name = f'{variant} {mode} {batch} {setting.name} {contender.library}'
                self.advance(name)
                if time.monotonic() > deadline:
                    self.say(f'{name} is left out: its share of the budget is spent')
                    continue
                row = Row(variant=variant, mode=mode, batch=batch, size=size, setting=setting,
                          library=contender.library, reference=contender.reference,
                          gap=contender.gap, macs=macs, first=0.0)
                with self._failing(name):
                    step = self._prepare(row, contender, images, labels)
                    self._check(step, expected[contender.reference], row)
                    ready.append((row, step, self.clock.steps_in_a_turn(step)))
                    step.release()
                step = None  # of one that failed nothing is kept
        self._take_turns(ready, deadline)
        return [row for row, _, _ in ready if row.seconds]

    def _failing(self, name: str):
        return _Failing(name, self.say, self.plan.device)

    def _expected(self, networks, images, labels, mode) -> dict[str, torch.Tensor]:
        """What one step of each of ours gives in float32, run plainly."""
        result = {}
        with clocks.tf32(False):
            for contender in networks:
                if contender.reference == contender.library:
                    step = Step(copy.deepcopy(contender.network), images, labels,
                                Setting('eager'), mode)
                    result[contender.library] = step().float().cpu()
        return result

    def _prepare(self, row: Row, contender: Contender, images, labels) -> Step:
        """A step that is warm, with all that is counted and not timed in its row."""
        cuda, device = self.clock.cuda, self.plan.device
        _tidy(device)
        before = torch.cuda.memory_allocated(device) if cuda else 0
        step = Step(copy.deepcopy(contender.network), images, labels, row.setting, row.mode)
        compiler = compiling() if 'compile' in row.setting else nullcontext()
        with compiler as fused:
            row.first = self.clock.first(step)
        for _ in range(2):
            step()
        if cuda:
            self.clock.wait()
            torch.cuda.reset_peak_memory_stats(device)
        if 'graphs' in row.setting:
            # A graph allocates while it is recorded, and nothing when it is replayed.
            row.first += self.clock.first(step.capture)
        step()
        if cuda:
            self.clock.wait()
            row.peak = torch.cuda.max_memory_allocated(device) - before
        row.moved = fused.moved if fused else step.traffic().moved
        row.saved = step.saved()
        return step

    def _check(self, step: Step, expected: torch.Tensor, row: Row) -> None:
        """That the step as it will be timed still computes what ours does."""
        gap, allowed = relative(step().float().cpu(), expected), LOOSE['bf16' in row.setting]
        if not gap <= allowed:
            raise RuntimeError(f'its outputs differ from those of {row.reference} in float32 by '
                               f'{gap:.1e} of the largest, and {allowed:.0e} is allowed')

    def _take_turns(self, ready: list, deadline: float) -> None:
        order = random.Random(0)
        for number in range(self.plan.rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > deadline:
                break
            self.advance(f'round {number + 1} of {self.plan.rounds}')
            for turn in order.sample(ready, len(ready)):
                row, step, times = turn
                with self._failing(f'{row.variant} {row.mode} {row.batch} {row.setting.name} '
                                   f'{row.library}') as failed:
                    row.seconds.append(self.clock.mean(step, times))
                    step.release()
                if failed:
                    row.seconds.clear()
                    ready.remove(turn)


class _Failing:
    """A block whose failure is said in one line and is true afterwards."""

    def __init__(self, name: str, say, device):
        self.name, self.say, self.device, self.failed = name, say, device, False

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, Exception):
            return False
        self.failed = True
        self.say(f'error: {self.name} is left out: {one_line(error)[:300]}')
        return True

    def __bool__(self):
        return self.failed


def _tidy(device: torch.device) -> None:
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()

