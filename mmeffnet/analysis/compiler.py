"""PyTorch's compiler, set up so that many networks are compiled anew and each one's bytes seen."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Networks of one class share their code, and each, in each way, is a further version of it:
# past PyTorch's own limit of 8 it would be run without compiling.
MOST_VERSIONS = 256


@dataclass
class Compiled:
    """What the compiler says of its kernels. moved: bytes read and written, None if unknown."""
    moved: int | None = None


@contextmanager
def compiling() -> Iterator[Compiled]:
    """A block in which networks are compiled; its traffic is there once the block has ended.

    Nothing is taken from the caches of an earlier run: a first call would look short.
    """
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor
    from torch._inductor import metrics
    torch._dynamo.config.cache_size_limit = MOST_VERSIONS
    torch._dynamo.config.accumulated_cache_size_limit = MOST_VERSIONS
    # The compiler counts bytes for this log alone, which nobody wants to read here.
    log = logging.getLogger('torch._inductor.compile_fx.__inductor_metrics')
    level, handlers, propagates = log.level, log.handlers, log.propagate
    before, compiled = metrics.num_bytes_accessed, Compiled()
    try:
        log.setLevel(logging.INFO)
        log.handlers, log.propagate = [logging.NullHandler()], False
        with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
            yield compiled
        compiled.moved = (metrics.num_bytes_accessed - before) or None
    finally:
        log.handlers, log.propagate = handlers, propagates
        log.setLevel(level)


def warm(device: torch.device) -> None:
    """Compile something small, so that the first network does not pay for the compiler's start."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.BatchNorm2d(8),
                                 torch.nn.SiLU()).to(device)
    torch.compile(layers, dynamic=False)(torch.randn(2, 8, 8, 8, device=device)).sum().backward()
    forget()


def forget() -> None:
    """Let go of all compiled networks."""
    torch._dynamo.reset()
