"""One step of a network, inference or training, in each of the ways it can be executed."""
from __future__ import annotations

from dataclasses import InitVar, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mmeffnet.analysis.contenders import CLASSES
from mmeffnet.analysis.traffic import Traffic, saved_for_backward
from mmeffnet.arch import nearest
from mmeffnet.errors import InputError

INFER, TRAIN = 'infer', 'train'
PARTS = ('eager', 'channels_last', 'bf16', 'cast', 'compile', 'graphs')
SMOOTHING = 0.1  # of the labels, as in the reference recipe


@dataclass(frozen=True)
class Setting:
    """How a network is executed: a name such as 'bf16+channels_last+compile'.

    'eager' alone is float32 in PyTorch's own order of channels; 'bf16' is autocast, with 'cast'
    the weights are bfloat16 in its place, 'graphs' is a CUDA graph of the whole step. flag: where
    the name comes from, for messages. Raises InputError for a name that means nothing.
    """
    name: str
    flag: InitVar[str] = '--settings'

    def __post_init__(self, flag: str):
        parts = self.name.split('+')
        for part in parts:
            if part not in PARTS:
                raise InputError(f'{flag} {self.name!r}: {part!r} is no setting'
                                 f'{nearest(part, PARTS)}; join some of {", ".join(PARTS)} by +')
        if len(set(parts)) < len(parts):
            raise InputError(f'{flag} {self.name!r} names a part twice')
        if 'eager' in parts and len(parts) > 1:
            raise InputError(f'{flag} {self.name!r}: eager stands alone')
        if 'cast' in parts and 'bf16' not in parts:
            raise InputError(f'{flag} {self.name!r}: cast is to bf16, which it needs beside it')

    def __contains__(self, part: str) -> bool:
        return part in self.name.split('+')


class Step:
    """A network with its input on its device; calling it runs one step and waits for nothing.

    A step of inference gives the logits. One of training is the forward pass in train mode,
    cross entropy with smoothed labels and the backward pass, and gives the loss; there is no
    optimizer, which is nobody's own. The network is changed in place.
    """

    def __init__(self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor,
                 setting: Setting, mode: str):
        memory = (torch.channels_last if 'channels_last' in setting
                  else torch.contiguous_format)
        self.setting, self.training = setting, mode == TRAIN
        dtype = torch.bfloat16 if 'cast' in setting else images.dtype
        self.network = network.to(device=images.device, dtype=dtype, memory_format=memory)
        self.network.train(self.training)
        self.images = images.to(dtype).contiguous(memory_format=memory)
        self.labels = labels
        self.forward = (torch.compile(self.network, dynamic=False) if 'compile' in setting
                        else self.network)
        self.graph = self.static = None

    def __call__(self) -> torch.Tensor:
        if self.graph is not None:
            self.graph.replay()
            return self.static
        return self._once(self.forward)

    def _once(self, forward) -> torch.Tensor:
        if not self.training:
            with torch.no_grad(), self._precision():
                return forward(self.images)
        self.release()
        loss = self._loss(forward)
        loss.backward()
        return loss.detach()

    def _loss(self, forward) -> torch.Tensor:
        with self._precision():
            return F.cross_entropy(forward(self.images), self.labels, label_smoothing=SMOOTHING)

    def _precision(self):
        return torch.autocast(self.images.device.type, torch.bfloat16,
                              enabled='bf16' in self.setting and 'cast' not in self.setting)

    def release(self) -> None:
        """Forget the gradients: between the turns of others they would only take memory."""
        self.network.zero_grad(set_to_none=True)

    def capture(self) -> None:
        """Record the step as a CUDA graph, which calls replay from then on."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries set themselves up, which a graph cannot record
                self._once(self.forward)
        torch.cuda.current_stream().wait_stream(stream)
        self.release()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.static = self._once(self.forward)
        self.graph = graph

    def traffic(self) -> Traffic:
        """Bytes that one step moves, executed operation by operation."""
        with Traffic() as traffic:
            self._once(self.network)
        self.release()
        return traffic

    def saved(self) -> int | None:
        """Bytes that the forward pass keeps for the backward pass; None for inference."""
        if not self.training:
            return None
        return saved_for_backward(lambda: self._loss(self.forward), self.network)


def batch_for(size: int, batch: int, device: torch.device
              ) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images (batch, 3, size, size) and labels (batch, ), the same at every call."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((batch, 3, size, size), generator=generator)
    labels = torch.randint(CLASSES, (batch, ), generator=generator)
    return images.to(device), labels.to(device)
