"""Bytes that a training step keeps for its backward pass, counted without memory."""
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmeffnet.analysis.traffic import storage_of
from mmeffnet.arch import Arch
from mmeffnet.inference.network import Classifier
from mmeffnet.models import EfficientNet, EfficientNetHead
from mmeffnet.models.blocks import ResidualBlock
from mmeffnet.variants import DROP_PATH_RATE, VARIANTS

SIZES = (2, 3)  # images; BatchNorm wants more than one value per channel


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes kept for one image between the forward and the backward pass.

    all: with everything kept. recomputed: with ``with_cp``, where a block keeps its input
    and is computed once more when it is its turn: the inputs of all blocks, what lies
    outside of them, and everything of the largest block.
    """
    all: int
    recomputed: int


class _Saved:
    """The storages that autograd keeps, each counted once, parameters and buffers left out."""

    def __init__(self, model: nn.Module):
        self.bytes, self.inputs, self.blocks = 0, 0, []
        self._seen = {storage_of(t): t for t in (*model.parameters(), *model.buffers())}
        self._before = []

    def pack(self, tensor):
        key = storage_of(tensor)
        if key not in self._seen:
            self._seen[key] = tensor  # alive, so that no other gets its place in memory
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def enter(self, block, inputs) -> None:
        self.inputs += inputs[0].untyped_storage().nbytes()
        self._before.append(self.bytes)

    def leave(self, block, inputs, output) -> None:
        self.blocks.append(self.bytes - self._before.pop())


def saved_bytes(model: nn.Module, images: torch.Tensor, labels: torch.Tensor,
                precision: torch.dtype = torch.float32) -> tuple[int, int]:
    """Bytes kept for the backward pass of one batch: all, and with blocks recomputed.

    model: (N, 3, H, W) to (N, classes), in training mode. images: (N, 3, H, W). labels: (N,).
    precision: of convolutions and the classifier; bfloat16 stands for autocast.
    """
    saved = _Saved(model)
    hooks = [hook for block in model.modules() if isinstance(block, ResidualBlock) for hook in (
        block.register_forward_pre_hook(saved.enter), block.register_forward_hook(saved.leave))]
    try:
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor), \
                torch.autocast('cpu', torch.bfloat16, enabled=precision == torch.bfloat16):
            # The loss is kept, and with it everything that the backward pass would read.
            loss = nn.functional.cross_entropy(model(images).float(), labels)
    finally:
        for hook in hooks:
            hook.remove()
    del loss
    kept = saved.bytes - sum(saved.blocks) + saved.inputs + max(saved.blocks, default=0)
    return saved.bytes, kept


@cache  # a network is run for it, some seconds each time
def activations(arch: str | Arch, resolution: int, precision: torch.dtype = torch.float32
                ) -> Activations:
    """What a variant, or an architecture, keeps for each image of a batch.

    The difference between batches of 3 and of 2: what is kept once, such as weights in
    bfloat16, is no part of it.
    """
    with without_memory():
        model = classifier(arch)
        found = [saved_bytes(model, torch.empty(n, 3, resolution, resolution),
                             torch.empty(n, dtype=torch.long), precision) for n in SIZES]
    few, many = found
    return Activations(all=many[0] - few[0], recomputed=many[1] - few[1])


@contextmanager
def without_memory():
    """Tensors made inside have shapes and types but no values: the CPU's own rules, no work."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def classifier(arch: str | Arch, num_classes: int = 1000) -> Classifier:
    """The network as it is trained: with drop path, dropout and a classifier.

    An architecture has the dropout of B0; every rate above 0 keeps as much.
    """
    named = isinstance(arch, str)
    dropout = VARIANTS[arch if named else 'b0'].dropout
    backbone = EfficientNet(arch=arch, drop_path_rate=DROP_PATH_RATE)
    head = EfficientNetHead(num_classes=num_classes, in_channels=backbone.arch.head,
                            dropout=dropout)
    return Classifier(backbone, head).train()
