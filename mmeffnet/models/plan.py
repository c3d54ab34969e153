"""A deployed network as a list of operations.

What modules decide at each layer of each image, and ``direct`` in their place, takes a tenth of the
time of one image of B0. Layers and weights of a deployed network stay: for images of one shape it
is decided once. A look over the modules before each image finds what is another since then.
"""
from __future__ import annotations

import torch
from torch import nn

from mmeffnet.models.direct import silent
from mmeffnet.models.operations import Making, UnplannedError, planned
from mmeffnet.models.packing import packs
from mmeffnet.models.turned import turn, turns

SHAPES = 32  # that are kept


class Plans:
    """Of one network, for images of each shape; made as they are needed.

    Copies and files get empty ones: packed weights cannot be copied.
    """

    def __init__(self):
        self._state: tuple | None = None  # one object, for threads that exchange it

    def __reduce__(self):
        return Plans, ()

    def run(self, network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """The outputs of a deployed backbone, where ``direct(x)``; None where there is no plan."""
        if not _plannable(network, x):
            return None
        watched, plans, weights = self._state or (None, None, None)
        if watched is None or watched.changed(network):
            watched, plans, weights = self._state = Watched(network), {}, {}
        key = x.shape, x.dtype, x.device, packs(x), tuple(network.out_indices)
        if key in plans:
            plan = plans[key]
            return None if plan is None else _outputs(plan, network, x)
        if len(plans) >= SHAPES:
            plans = {}
            self._state = watched, plans, weights
        try:
            if not watched.quiet:
                raise UnplannedError
            plans[key], outs = _made(network, x, weights)
        except UnplannedError:
            plans[key] = outs = None
        return outs


def _plannable(network, x) -> bool:
    """Whether operations may be chosen beforehand: with everything in channels last, unless
    something watches operations (counters, tracers) or casts what they are given."""
    weight = next((p for p in network.parameters() if p.dim() == 4), None)  # of the stem
    return (weight is not None and x.dtype is weight.dtype and x.device == weight.device
            and x.shape[1] == weight.shape[1]
            and (_channels_last(x) or _channels_last(weight))
            and not torch._C._len_torch_dispatch_stack()
            and not torch._C._is_any_autocast_enabled())


def _channels_last(x) -> bool:
    """What a convolution takes for it: by its strides even a single channel may lie last."""
    return x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)


class Watched:
    """What a plan rests on. Of weights, other tensors and writing to them are noticed, as autograd
    notices them: writing through ``.data`` is not."""

    def __init__(self, network: nn.Module):
        self._modules = list(network.modules())
        self._attributes = [vars(module) for module in self._modules]
        self._children = [m._modules for m in self._modules if m._modules]
        self._convs = [vars(m) for m in self._modules if isinstance(m, nn.Conv2d)]
        self._hooks = [hooks for m in self._modules
                       for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        # Kept, so that nothing else gets the memory that is compared.
        self._kept = [(p, p.detach()) for p in network.parameters()]
        # Inference tensors do not count what is written to them.
        self.quiet = (all(silent(m) and not m.training for m in self._modules)
                      and not any(p.is_inference() for p in network.parameters()))
        self._seen = self._look()
        self._seen[0] = [*map(dict, self._children)]

    def _look(self):
        weights = [p for conv in self._convs for p in conv['_parameters'].values()
                   if p is not None]
        return [self._children, [*map(type, self._modules)],
                [p.data_ptr() for p in weights],
                _versions(weights),
                [(conv['stride'], conv['padding'], conv['dilation'], conv['groups'],
                  conv['padding_mode']) for conv in self._convs],
                any(self._hooks) or any(d['training'] or 'forward' in d
                                        for d in self._attributes)]

    def changed(self, network: nn.Module) -> bool:
        """Shallow copies, such as those of DataParallel, share the object that holds this."""
        return network is not self._modules[0] or self._look() != self._seen


def _versions(weights) -> list[int] | None:
    try:
        return [p._version for p in weights]
    except RuntimeError:  # inference tensors have none
        return None


def _made(network, x, weights):
    """Steps, one for each layer, whether they take images turned, and the outputs of ``x``."""
    layers = network.layers[:network.out_indices[-1] + 1]
    turned, steps, outs = turns(layers, x), [], []
    x = turn(x) if turned else x
    for index, layer in enumerate(layers):
        step, x = planned(layer, x, Making(weights, turned))
        steps.append(step)
        if index in network.out_indices:
            outs.append(turn(x) if turned else x)
    return (steps, turned), tuple(outs)


def _outputs(plan, network, x):
    steps, turned = plan
    outs, x = [], turn(x) if turned else x
    for index, step in enumerate(steps):
        x = step(x)
        if index in network.out_indices:
            outs.append(turn(x) if turned else x)
    return tuple(outs)
