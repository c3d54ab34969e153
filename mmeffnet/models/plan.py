"""A deployed network as a list of operations.

What modules decide at each layer of each image, and ``direct`` in their place, takes a tenth of the
time of one image of B0. Layers and weights of a deployed network stay: for images of one shape it
is decided once. A look over the modules before each image finds what is another since then.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath
from torch import nn

from mmeffnet.models.blocks import FusedMBConv, MBConv, SqueezeExcite
from mmeffnet.models.direct import (
    CONVOLUTIONS,
    DENSE,
    IN_PLACE,
    fine_bias,
    is_product,
    most_at_once,
    pixel_mean,
    plain_order,
    silent,
)
from mmeffnet.models.layers import Conv2dSame, conv2d, dropped, evenly_padded, layout_of
from mmeffnet.models.packing import BARE, FUSED, packed, packed_conv2d, packs
from mmeffnet.models.recompute import LeanConvModule

SHAPES = 32  # that are kept


class UnplannedError(Exception):
    """A layer that has to be run as the module it is."""


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
            steps = plans[key]
            return None if steps is None else _outputs(steps, network, x)
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
            and torch.channels_last in (layout_of(x), layout_of(weight))
            and not torch._C._len_torch_dispatch_stack()
            and not torch._C._is_any_autocast_enabled())


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
                [p._version for p in weights] if self.quiet else None,
                [(conv['stride'], conv['padding'], conv['dilation']) for conv in self._convs],
                any(self._hooks) or any(d['training'] or 'forward' in d
                                        for d in self._attributes)]

    def changed(self, network: nn.Module) -> bool:
        """Shallow copies, such as those of DataParallel, share the object that holds this."""
        return network is not self._modules[0] or self._look() != self._seen


def _made(network, x, weights):
    """Steps, one for each layer, and the outputs of ``x``."""
    steps, outs = [], []
    for index, layer in enumerate(network.layers[:network.out_indices[-1] + 1]):
        step, x = _planned(layer, x, weights)
        steps.append(step)
        if index in network.out_indices:
            outs.append(x)
    return steps, tuple(outs)


def _outputs(steps, network, x):
    outs = []
    for index, step in enumerate(steps):
        x = step(x)
        if index in network.out_indices:
            outs.append(x)
    return tuple(outs)


def _planned(module, x, weights):
    """A function that does to a tensor like ``x`` what ``module`` would, and what it did to ``x``.

    The functions below write over what they made themselves, never over what they are given.
    """
    plan = STEPS.get(type(module))
    if plan is None:
        raise UnplannedError
    return plan(module, x, weights)


def _chain(modules, x, weights):
    steps = []
    for module in modules:
        if type(module) is not nn.Identity:
            step, x = _planned(module, x, weights)
            steps.append(step)
    if len(steps) == 1:
        return steps[0], x

    def chain(x):
        for step in steps:
            x = step(x)
        return x
    return chain, x


def _block(block, x, weights):
    """In parts, where ``direct.parts`` would take them."""
    most = most_at_once(x, block.hidden * x.shape[2] * x.shape[3])
    if most >= len(x):
        return _whole_block(block, x, weights)
    steps, outs = {}, []
    for part in x.split(most):
        steps[len(part)], out = _whole_block(block, part, weights)
        outs.append(out)
    return (lambda x: torch.cat([steps[len(part)](part) for part in x.split(most)]),
            torch.cat(outs))


def _whole_block(block, x, weights):
    if type(block.drop_path) not in (nn.Identity, DropPath):  # which does nothing in inference
        raise UnplannedError
    steps, out = _chain([block._modules[name] for name in block.order], x, weights)
    if not block.skip:
        return steps, out
    return (lambda x: steps(x).add_(x)), out.add_(x)


def _excite(se, x, weights):
    gate, scale = _chain((se.conv1, se.conv2), pixel_mean(x), weights)
    return (lambda x: x.mul_(gate(pixel_mean(x)))), x.mul_(scale)


def _conv_module(module, x, weights):
    inner = module._modules
    conv, activate = inner['conv'], inner['activate'] if module.with_activation else None
    if not (plain_order(module) and type(conv) in CONVOLUTIONS and conv.padding_mode == 'zeros'
            and (not module.with_norm or type(inner[module.norm_name]) is nn.Identity)):
        raise UnplannedError
    if is_product(x, conv) and fine_bias(conv) is conv.bias and (
            x.shape[2] * x.shape[3] == 1 or not packs(x)):
        step = _product(x, conv, IN_PLACE.get(type(activate), activate))
    else:
        step = _convolution(x, conv, activate, weights)
    return step, step(x)


def _product(x, conv, activate):
    count, channels, height, width = x.shape
    matrix, bias, activate = conv.weight.flatten(1), conv.bias, activate or _as_it_is
    if height * width == 1:
        return lambda x: activate(F.linear(x.flatten(1), matrix, bias)).view(count, -1, 1, 1)
    return lambda x: activate(F.linear(
        x.permute(0, 2, 3, 1).reshape(-1, channels), matrix, bias)).view(
            count, height, width, -1).permute(0, 3, 1, 2)


def _as_it_is(x):
    return x


def _convolution(x, conv, activate, weights):
    padding, early, ends = conv.padding, (0, 0), None
    if type(conv) is Conv2dSame and conv.depends_on_size:
        height, width = x.shape[2:]
        whole, padding, early = evenly_padded(x, conv.weight, conv.zeros((height, width)),
                                              conv.stride, conv.dilation)
        if whole is not x:
            ends = 0, whole.shape[3] - width, 0, whole.shape[2] - height
    setting = fine_bias(conv), conv.stride, padding, conv.dilation, conv.groups
    if packs(x):
        weight = packed(x, conv, weights.setdefault(conv, {}))
        fused = None if any(early) else FUSED[x.dtype].get(type(activate))
        activate = None if fused else activate
        convolve, rest = packed_conv2d(weight, *setting, fused or BARE)
    else:
        convolve, rest = conv2d, (conv.weight, *setting)
    if any(early):
        return _past(early, activate, convolve, rest)
    activate = IN_PLACE.get(type(activate), activate)
    if ends:
        activate = activate or _as_it_is
        return lambda x: activate(convolve(F.pad(x, ends), *rest))
    if activate is None:
        return lambda x: convolve(x, *rest)
    return lambda x: activate(convolve(x, *rest))


def _past(early, activate, convolve, rest):
    """Of what a convolution puts out beginning with ``early`` rows and columns."""
    top, left = early
    if type(activate) in DENSE:
        activate = DENSE[type(activate)]
        return lambda x: activate(convolve(x, *rest)[..., top:, left:])
    activate = activate or _as_it_is
    return lambda x: activate(dropped(convolve(x, *rest), early))


STEPS = {ConvModule: _conv_module, LeanConvModule: _conv_module, SqueezeExcite: _excite,
         MBConv: _block, FusedMBConv: _block, nn.Sequential: _chain}
