"""PyTorch's compiler, set up so that many networks are compiled anew and each one's bytes seen."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

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

    It starts with empty caches: kernels of an earlier network would make a first call short.
    """
    from torch._inductor import metrics, utils
    torch._dynamo.config.cache_size_limit = MOST_VERSIONS
    torch._dynamo.config.accumulated_cache_size_limit = MOST_VERSIONS
    fresh = getattr(utils, 'fresh_cache', None) or utils.fresh_inductor_cache
    before, compiled = metrics.num_bytes_accessed, Compiled()
    with (TemporaryDirectory(ignore_cleanup_errors=True) as folder, _counting(),
          fresh(dir=folder)):
        yield compiled
    compiled.moved = (metrics.num_bytes_accessed - before) or None


@contextmanager
def _counting() -> Iterator[None]:
    """The compiler counts bytes for a log alone, which nobody wants to read here."""
    log = logging.getLogger('torch._inductor.compile_fx.__inductor_metrics')
    level, handlers, propagates = log.level, log.handlers, log.propagate
    log.setLevel(logging.INFO)
    log.handlers, log.propagate = [logging.NullHandler()], False
    try:
        yield
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
