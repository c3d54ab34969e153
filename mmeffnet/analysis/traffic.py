"""Bytes that a computation moves and keeps: counted, and therefore the same on every machine."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Memory is set aside, and nothing is written to it.
ALLOCATIONS = ('empty', 'empty_strided', 'empty_like', 'new_empty', 'new_empty_strided', 'set_')
# Of these the shape of the input is looked at, and not its content.
SHAPE_READERS = ('zeros_like', 'ones_like', 'full_like', 'rand_like', 'randn_like', 'new_zeros',
                 'new_ones', 'new_full')
# In-place operations that do not look at what they overwrite.
OVERWRITERS = ('zero_', 'fill_', 'copy_', 'normal_', 'uniform_', 'bernoulli_', 'exponential_')
# BatchNorm operations whose schema does not say that running mean and variance are written.
SILENT_WRITERS = {'native_batch_norm': (3, 4, 5), 'cudnn_batch_norm': (3, 4, 5),
                  'miopen_batch_norm': (3, 4, 5)}


def covered(tensor: torch.Tensor) -> int:
    """Bytes of memory that a tensor shows; an expanded axis shows the same ones again."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride()):
        elements *= size if stride or not size else 1
    return elements * tensor.element_size()


def storage_of(tensor: torch.Tensor) -> int:
    """What tells memory from memory, as long as the tensor lives."""
    return tensor.untyped_storage()._cdata


def together(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory that several tensors show, each place counted once."""
    views, whole = {}, {}
    for tensor in tensors:
        storage = storage_of(tensor)
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        views[place] = covered(tensor)
        whole[storage] = tensor.untyped_storage().nbytes()
    sums = Counter()
    for place, size in views.items():
        sums[place[0]] += size
    return sum(min(size, whole[storage]) for storage, size in sums.items())


class Traffic(TorchDispatchMode):
    """Counts bytes read and written by each aten operation while it is entered.

    An operation reads each of its inputs once and writes each of its outputs once, as far as
    they lie in memory of their own: what a kernel moves that needs nothing twice. Views move
    nothing. Kernels that do not go through PyTorch's dispatcher, such as a compiler's, are not
    seen. read, written: Counters of bytes by operation.
    """

    def __init__(self):
        super().__init__()
        self.read, self.written = Counter(), Counter()

    @property
    def moved(self) -> int:
        """Bytes read and written together."""
        return self.read.total() + self.written.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix('aten::')
        if name not in ALLOCATIONS and torch.Tag.inplace_view not in func.tags:
            read, written = _bytes_of(func._schema, name, args, kwargs or {}, result)
            if read:
                self.read[name] += read
            if written:
                self.written[name] += written
        return result


def _bytes_of(schema, name: str, args, kwargs, result) -> tuple[int, int]:
    """Bytes that one call reads and writes."""
    inputs, changed = [], []
    for place, argument in enumerate(schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        tensors = [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes:
            changed += tensors
        if not (writes and (argument.is_out or name in OVERWRITERS)):
            inputs += tensors
    changed += _silently_written(name, args)
    given = {storage_of(t) for t in (*inputs, *changed)}
    outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
    fresh = [t for t in outputs if storage_of(t) not in given]
    if outputs and not fresh and not changed:
        return 0, 0  # a view of an input
    read = 0 if name in SHAPE_READERS else together(inputs)
    return read, together([*fresh, *changed])


def _silently_written(name: str, args) -> list[torch.Tensor]:
    *places, training = SILENT_WRITERS.get(name, (0, ))
    if not places or not args[training]:
        return []
    return [args[place] for place in places if args[place] is not None]


def saved_for_backward(compute: Callable[[], object], network: nn.Module) -> int:
    """Bytes that ``compute`` keeps for its backward pass, beside the network's own tensors.

    Storages are counted whole and once: they stay as long as any part of them is needed.
    """
    own = {storage_of(t) for t in (*network.parameters(), *network.buffers())}
    saved = {}

    def keep(tensor):
        saved.setdefault(storage_of(tensor), tensor.untyped_storage())
        return tensor.detach()  # not itself: an output saved by its own node would be a cycle

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = compute()
    total = sum(storage.nbytes() for key, storage in saved.items() if key not in own)
    del kept
    return total
