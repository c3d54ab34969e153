"""Times, memory and traffic of EfficientNets of several libraries, measured in turns."""
from __future__ import annotations

import copy
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from mmeffnet.analysis import clock as clocks
from mmeffnet.analysis.compiler import compiling, forget, warm
from mmeffnet.analysis.contenders import Contender, contenders, deployed, lean, relative
from mmeffnet.analysis.speed_rows import Ceilings, Row
from mmeffnet.analysis.steps import TRAIN, Setting, Step, batch_for
from mmeffnet.errors import one_line
from mmeffnet.variants import VARIANTS

LEAST_ROUNDS = 3
# A step, as it is timed, may differ from ours in float32 by this share of the largest value:
# by whether it is in bfloat16. B7 is 0.05 off there; TF32 has three more bits. A step that went
# wrong, such as a graph that was recorded badly, is off by the whole value.
ALLOWED = {False: 2e-2, True: 0.2}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    size: pixels, None for each variant's own. budget: seconds, or None. deploy: whether ours is
    there with BatchNorm folded too, in inference. lean: whether ours is there with the backward
    passes of ``memory_efficient`` and ``fast_gradients`` too, in training.
    """
    variants: Sequence[str]
    modes: Sequence[str]
    batches: Sequence[int]
    settings: Sequence[Setting]
    libraries: Sequence[str]
    device: torch.device
    size: int | None = None
    rounds: int = 10
    budget: float | None = None
    deploy: bool = False
    lean: bool = False


def measure_ceilings(device: torch.device, settings: Sequence[Setting]) -> Ceilings:
    """The ceilings, in the precisions that the settings use."""
    clock = clocks.Clock(device)
    precisions = sorted({'bf16' in setting for setting in settings})
    ceilings = Ceilings(bandwidth=clocks.bandwidth(clock), matrix={
        bf16: clocks.matrix_rate(clock, bf16) for bf16 in precisions})
    _tidy(device)
    return ceilings


class Benchmark:
    """Runs a plan; ``groups`` gives the rows of one variant, mode and batch at a time.

    All candidates of a group are made ready, and then take turns in an order drawn anew for
    each round: a machine that slows down slows all of them. What fails is left out.
    say: is given a line for all that is left out. tell: is given what is being done, and how
    much of all is done.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None],
                 tell: Callable[[str, float], None] = lambda text, share: None):
        self.plan, self.say = plan, say
        self.clock = clocks.Clock(plan.device)
        self.end = time.monotonic() + (float('inf') if plan.budget is None else plan.budget)
        self.total = len(plan.variants) * len(plan.modes) * len(plan.batches)
        self.done, self._tell = 0, tell

    def groups(self) -> Iterator[list[Row]]:
        """Each group as soon as it is measured; empty where all of it failed."""
        plan = self.plan
        compiled = any('compile' in setting for setting in plan.settings)
        if compiled:
            self.tell('starting the compiler')
            warm(plan.device)
        for variant in plan.variants:
            self.tell(f'building {variant}')
            networks = contenders(variant, plan.libraries, self.say)
            for mode in plan.modes:
                forms = [deployed(networks[0])] if plan.deploy and mode != TRAIN else []
                forms += lean(networks[0]) if plan.lean and mode == TRAIN else []
                for batch in plan.batches:
                    yield self._group(variant, mode, batch, [*networks, *forms])
                    self.done += 1
                    if compiled:
                        forget()
                    _tidy(plan.device)

    def tell(self, text: str, part: float = 0.0) -> None:
        """Say what is being done. part: how much of the group is."""
        self._tell(text, (self.done + part) / self.total)

    def _group(self, variant, mode, batch, networks: list[Contender]) -> list[Row]:
        # What is left of the budget is shared among the groups that are left.
        now = time.monotonic()
        deadline = now + max(0.0, self.end - now) / (self.total - self.done)
        size = self.plan.size or VARIANTS[variant].resolution
        images, labels = batch_for(size, batch, self.plan.device)
        macs = batch * clocks.multiply_adds(networks[0].network, size, mode == TRAIN)
        expected = self._expected(networks, images, labels, mode)
        rows = [(Row(variant=variant, mode=mode, batch=batch, size=size, setting=setting,
                     library=network.library, reference=network.reference, gap=network.gap,
                     macs=macs), network.network)
                for setting in self.plan.settings for network in networks]
        ready = []
        for number, (row, network) in enumerate(rows):
            self.tell(row.name, 0.5 * number / len(rows))
            if time.monotonic() > deadline:
                self.say(f'{row.name} is left out: the budget is spent')
                continue
            with self._surviving(row.name):
                step = self._prepare(row, network, images, labels)
                self._check(step, expected.get(row.reference), row)
                times = self.clock.steps_in_a_turn(step)
                step.release()
                ready.append((row, step, times))
            step = None
        self._take_turns(ready, deadline)
        return [row for row, _, _ in ready]

    def _expected(self, networks, images, labels, mode) -> dict[str, torch.Tensor]:
        """What one step of each of ours gives in float32, run plainly."""
        result = {}
        for contender in networks:
            if contender.reference == contender.library:
                with self._surviving(f'comparing with {contender.library} in float32'), \
                        clocks.tf32(False):
                    step = Step(copy.deepcopy(contender.network), images, labels,
                                Setting('eager'), mode)
                    result[contender.library] = step().float().cpu()
                step = None
        return result

    def _prepare(self, row: Row, network: torch.nn.Module, images, labels) -> Step:
        """A step that is warm, with all that is counted and not timed in its row."""
        cuda, device = self.clock.cuda, self.plan.device
        _tidy(device)
        before = torch.cuda.memory_allocated(device) if cuda else 0
        step = Step(copy.deepcopy(network), images, labels, row.setting, row.mode)
        with compiling() if 'compile' in row.setting else nullcontext() as compiled:
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
        row.moved = compiled.moved if compiled else step.traffic().moved
        row.saved = step.saved()
        return step

    def _check(self, step: Step, expected: torch.Tensor | None, row: Row) -> None:
        """That the step as it will be timed still computes what ours does."""
        if expected is None:
            return
        gap, allowed = relative(step().float().cpu(), expected), ALLOWED['bf16' in row.setting]
        if not gap <= allowed:
            raise RuntimeError(f'it differs from {row.reference} in float32 by {gap:.1e} of the '
                               f'largest value, and {allowed:g} is allowed')

    def _take_turns(self, ready: list, deadline: float) -> None:
        """Fill the seconds of the rows; what fails is taken out of ``ready``."""
        order = random.Random(0)
        for number in range(self.plan.rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > deadline:
                break
            self.tell(f'round {number + 1} of {self.plan.rounds}',
                      0.5 + 0.5 * number / self.plan.rounds)
            for turn in order.sample(ready, len(ready)):
                row, step, times = turn
                seconds = None
                with self._surviving(row.name):
                    seconds = self.clock.mean(step, times)
                    step.release()
                if seconds is None:
                    ready.remove(turn)
                else:
                    row.seconds.append(seconds)

    @contextmanager
    def _surviving(self, name: str):
        """A block whose failure is one line and not the end: memory, compilers, other libraries."""
        try:
            yield
        except Exception as error:
            self.say(f'error: {name} is left out: {one_line(error)[:300]}')


def _tidy(device: torch.device) -> None:
    """On CUDA, give back what nothing refers to any more."""
    if device.type == 'cuda':
        gc.collect()
        torch.cuda.empty_cache()
