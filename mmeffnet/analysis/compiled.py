"""Whether a compiled network is the network: one graph for all batches, and the same numbers."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mmeffnet.analysis.compiler import compiling, forget
from mmeffnet.analysis.contenders import ours, random_weights
from mmeffnet.analysis.steps import TRAIN

# Graphs: one of the first batch's size alone, and one of every other.
MOST_GRAPHS = 2
# Largest difference in float64, as a share of the largest value of a tensor. The compiler adds up
# in another order, which BatchNorm of few values amplifies from layer to layer in training.
TOLERANCE = 1e-7
# Share of a network's largest gradient below which a tensor's are rounding alone: a bias ahead of
# the next BatchNorm has none.
FLOOR = 1e-6


@dataclass(frozen=True)
class Agreement:
    """How far a compiled network is from the eager one, as a share of the largest value.

    graphs: how many were compiled. outputs, gradients and statistics: largest differences over all
    batches, the last two 0.0 in inference. seconds: of the calls that compiled.
    """
    variant: str
    mode: str
    graphs: int
    outputs: float
    gradients: float
    statistics: float
    seconds: float

    @property
    def holds(self) -> bool:
        return (self.graphs <= MOST_GRAPHS
                and all(gap <= TOLERANCE for gap in (self.outputs, self.gradients,
                                                     self.statistics)))


def agreement(variant: str, mode: str, batches: Sequence[int], size: int,
              backend: str = 'inductor') -> Agreement:
    """Compile a classifier as a whole, in float64 on the CPU, and hold it against itself.

    size: pixels along height and width. A break in the graph is torch's own error.
    """
    network = ours(variant)
    network.load_state_dict(random_weights(variant))
    network.double().train(mode == TRAIN).requires_grad_(mode == TRAIN)
    compile_graph, graphs = torch._dynamo.lookup_backend(backend), []

    def counted(graph, inputs):
        graphs.append(graph)
        return compile_graph(graph, inputs)

    gaps, seconds = [[], [], []], 0.0
    with compiling():
        compiled = torch.compile(network, backend=counted, fullgraph=True)
        for batch in batches:
            images = _images(batch, size)
            buffers = {name: value.clone() for name, value in network.named_buffers()}
            expected = _results(network, network, images, mode)
            network.load_state_dict(buffers, strict=False)
            known, start = len(graphs), time.perf_counter()
            got = _results(compiled, network, images, mode)
            seconds += (time.perf_counter() - start) * (len(graphs) > known)
            for found, ones, others in zip(gaps, got, expected):
                found += _gaps(ones, others)
    forget()
    return Agreement(variant, mode, len(graphs), *(max(found, default=0.0) for found in gaps),
                     seconds)


def _images(batch: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)


def _results(call, network: nn.Module, images: torch.Tensor, mode: str) -> tuple[list, list, list]:
    """Logits, gradients and running statistics after a step."""
    if mode != TRAIN:
        with torch.no_grad():
            return [call(images)], [], []
    network.zero_grad()
    logits = call(images)
    # Any direction will do; a plain sum has no gradient past BatchNorm.
    logits.mul(torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)).sum().backward()
    return ([logits.detach()], [param.grad for param in network.parameters()],
            [value.clone() for value in network.buffers() if value.is_floating_point()])


def _gaps(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    """Of each tensor; NaN counts as the largest gap there is."""
    largest = [value.abs().max().item() for value in expected]
    gaps = [(one - other).abs().max().item() / (max(scale, FLOOR * max(largest)) or 1.0)
            for one, other, scale in zip(actual, expected, largest, strict=True)]
    return [gap if gap == gap else float('inf') for gap in gaps]
