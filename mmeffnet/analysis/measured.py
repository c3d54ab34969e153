"""Parameters, multiply-adds and activations of any network, counted without memory.

What is counted is said in :mod:`mmeffnet.analysis.complexity`.
"""
from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmeffnet.analysis.complexity import Complexity, Part, image_size
from mmeffnet.errors import one_line
from mmeffnet.registry import MODELS

REST = '(rest)'  # what belongs to no part


class _Counter(TorchDispatchMode):
    """Adds up multiply-adds and outputs of convolutions and products, by the current part.

    PyTorch's own table of operations says what each of them costs.
    """

    def __init__(self):
        super().__init__()
        self.running = [REST]
        self.multiply_adds, self.activations, self.shapes = Counter(), Counter(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        rule = flop_registry.get(func._overloadpacket)
        if rule is not None:
            part = self.running[-1]
            self.multiply_adds[part] += rule(*args, **(kwargs or {}), out_val=out) // 2
            first = out[0] if isinstance(out, (tuple, list)) else out
            self.activations[part] += first.numel()
        return out

    def watch(self, name: str, module: nn.Module) -> list:
        """Count what ``module`` does, and what it calls, for the part ``name``."""
        def leave(module, inputs, output):
            self.running.pop()
            if isinstance(output, torch.Tensor):
                self.shapes[name] = tuple(output.shape[1:])

        return [module.register_forward_pre_hook(lambda *_: self.running.append(name)),
                module.register_forward_hook(leave)]


def measure(network: nn.Module | Mapping, resolution: int | tuple[int, int], *,
            in_channels: int = 3) -> Complexity:
    """What a network costs for one image, counted from a forward pass on the meta device.

    network: a module that takes (N, in_channels, H, W), which stays as it is, or the config of
    anything registered with MMEngine, such as ``dict(type='mmpretrain.ResNet', depth=50)``.
    resolution: pixels of both sides, or (height, width). Parts are the network's children,
    members of a list one by one. Raises ValueError where the network cannot be built, and where
    its forward pass depends on values, which a tensor without memory has not.
    """
    size = image_size(resolution)
    if isinstance(network, Mapping):
        try:  # in memory: constructors look at values, such as mmpretrain's at rates
            network = MODELS.build(dict(network))
        except Exception as error:
            raise ValueError(f'network={dict(network)!r} cannot be built: '
                             f'{one_line(error)}') from error
    else:
        network = copy.deepcopy(network)
    parameters = {name: value.numel() for name, value in network.named_parameters()}
    network.to('meta').eval()
    counter, parts = _Counter(), _parts(network)
    for name, module in parts.items():
        counter.watch(name, module)
    try:
        with torch.no_grad(), counter:
            network(torch.empty((1, in_channels, *size), device='meta'))
    except Exception as error:
        raise ValueError(f'{type(network).__name__} cannot be run without memory at '
                         f'{size[0]}x{size[1]}: {one_line(error)}') from error
    owned = Counter()
    for key, count in parameters.items():
        owned[next((name for name in parts if key.startswith(f'{name}.')), REST)] += count
    rows = (Part(name=name, shape=counter.shapes.get(name, ()), parameters=owned[name],
                 multiply_adds=counter.multiply_adds[name],
                 activations=counter.activations[name]) for name in (*parts, REST))
    return Complexity(size=size, parts=tuple(
        row for row in rows if row.parameters or row.multiply_adds))


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """The children by name; those of a list or a row stand for themselves."""
    found = {}
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f'{name}.{index}': member for index, member in child.named_children()}
        else:
            found[name] = child
    return found
