"""What a process asks of the C libraries that PyTorch computes with on a CPU."""
from __future__ import annotations

import ctypes
import os
import platform

# Numbers of options, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
# What a user sets to choose for glibc's allocator.
_CHOICES = ('MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_')


def wait_briefly() -> None:
    """Let CPU threads that wait for others spin for some microseconds and then sleep.

    Other work on the machine disturbs them less then (docs/benchmarks.md). Only before PyTorch is
    imported: its OpenMP reads GOMP_SPINCOUNT once. What the user has set stays.
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '10000')


def keep_freed_memory() -> bool:
    """Let this process, and those it forks, keep freed memory for what they allocate next.

    glibc takes each activation of more than 32 MiB from the system and gives it back, and trims
    what is free below that, so that a step spends a fifth of its time on pages it had before
    (docs/benchmarks.md). The process then keeps the most it ever needed, and some more where sizes
    change. Gives whether it was asked for: not of other C libraries, nor where the environment
    chooses already, by a MALLOC_* variable of glibc's, GLIBC_TUNABLES, or LD_PRELOAD.
    """
    chosen = any(name in os.environ for name in (*_CHOICES, 'LD_PRELOAD')) or (
        'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', ''))
    if chosen or platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
