"""The two residual blocks; each receives finished numbers."""
from contextlib import nullcontext

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

from mmeffnet.arch import Block
from mmeffnet.models.direct import call, direct, parts, pixel_mean, silent
from mmeffnet.models.recompute import (
    LeanConvModule,
    foldable,
    gated_projection,
    movable,
    norm_swish,
    recomputable,
    spatial_mean,
)

SHARDED = FSDPModule, FullyShardedDataParallel


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the mean of all of them."""

    def __init__(self, channels: int, squeeze: int, act_cfg: dict):
        super().__init__()
        self.conv1 = ConvModule(channels, squeeze, 1, act_cfg=act_cfg)
        self.conv2 = ConvModule(squeeze, channels, 1, act_cfg=dict(type='Sigmoid'))

    def gate(self, x):
        """(N, C, H, W) to (N, C, 1, 1)."""
        return self.conv2(self.conv1(spatial_mean(x)))

    def forward(self, x):
        return self.directly(x) if direct(x) else x * self.gate(x)

    def directly(self, x, overwrite: bool = False):
        """``forward(x)``, where ``direct(x)``."""
        gate = call(call(pixel_mean(x), self.conv1), self.conv2)
        return x.mul_(gate) if overwrite else x * gate


class _AsBefore:
    """A context, in which the modules of a block are as they were when it was made.

    A recomputation needs the modes and the weights of the forward pass, which may be those of
    ``functional_call``. Buffers are copies, so that BatchNorm does not count its batch a second
    time; without any it would save fewer tensors than before, which checkpointing refuses.
    FSDP within a block exchanges the weights itself, for whole ones before a module runs.
    """

    def __init__(self, block: nn.Module):
        sharded = any(isinstance(module, SHARDED) for module in block.modules())
        # A compiled module has nothing of its own: all is in the one that it wraps.
        self._then = [(vars(module), dict(
            training=module.training,
            _buffers={name: None if value is None else value.clone()
                      for name, value in module._buffers.items()},
            **{} if sharded else dict(_parameters=dict(module._parameters))))
            for module in block.modules() if 'training' in vars(module)]

    def __enter__(self):
        self._now = [{name: own[name] for name in then} for own, then in self._then]
        for own, then in self._then:
            own.update(then)

    def __exit__(self, *_):
        for (own, _), now in zip(self._then, self._now):
            own.update(now)


def idle(drop_path: nn.Module) -> bool:
    """Whether a module in the place of drop path passes on what it is given."""
    return (type(drop_path) is nn.Identity
            or type(drop_path) is DropPath and not drop_path.training)


class ResidualBlock(nn.Module):
    """What both blocks share: the skip connection, drop path and checkpointing.

    with_cp: recompute the block in the backward pass instead of keeping its activations.
    memory_efficient: recompute BatchNorm and Swish there, see :mod:`mmeffnet.models.recompute`.
    """
    in_place = False  # of a deployed network: one tensor less is written
    memory_efficient = False
    order: tuple[str, ...]  # of the layers that ``transform`` runs one after another

    def __init__(self, block: Block, drop_path_rate: float, with_cp: bool):
        super().__init__()
        self.skip = block.skip
        self.hidden = block.hidden  # channels of the widest activation, at the input's size
        self.with_cp = with_cp
        self.drop_path = (DropPath(drop_path_rate) if drop_path_rate > 0 and block.skip
                          else nn.Identity())

    def forward(self, x):
        if not (self.with_cp and torch.is_grad_enabled()) or torch.jit.is_tracing():
            return self._forward(x)
        if torch.compiler.is_compiling():
            # The compiler replays a functional graph, where statistics are updated once.
            return checkpoint(self._forward, x, use_reentrant=False)
        if torch._C._are_functorch_transforms_active():  # which refuse what recomputes
            return self._forward(x)
        return checkpoint(self._forward, x, use_reentrant=False,
                          context_fn=lambda: (nullcontext(), _AsBefore(self)))

    def _forward(self, x):
        if direct(x):
            # What a hook has seen may have been kept.
            overwrite = self.in_place and all(map(silent, self.modules()))
            some = parts(x, self, self.hidden * x.shape[2] * x.shape[3])
            outs = [self._added(part, self.directly(part, overwrite), overwrite) for part in some]
            return outs[0] if len(outs) == 1 else torch.cat(outs)
        return self._added(x, self.transform(x))

    def _added(self, x, out, overwrite: bool = False):
        if not self.skip:
            return out
        return out.add_(x) if overwrite and idle(self.drop_path) else x + self.drop_path(out)

    def directly(self, x, overwrite: bool = False):
        """``transform(x)``, where ``direct(x)``; may write over what it has computed itself."""
        for name in self.order:
            layer = self._modules[name]
            if type(layer) is SqueezeExcite and silent(layer):
                x = layer.directly(x, overwrite)
            else:
                x = call(x, layer)
        return x


class MBConv(ResidualBlock):
    """Inverted residual: 1x1 expansion, depthwise convolution, SE, 1x1 projection.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride).
    """
    order = 'expand_conv', 'depthwise_conv', 'se', 'linear_conv'

    def __init__(self, block: Block, *, conv_cfg, norm_cfg, act_cfg, drop_path_rate, with_cp):
        super().__init__(block, drop_path_rate, with_cp)
        common = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.expand_conv = nn.Identity() if block.hidden == block.in_channels else LeanConvModule(
            block.in_channels, block.hidden, 1, act_cfg=act_cfg, **common)
        self.depthwise_conv = LeanConvModule(
            block.hidden, block.hidden, block.kernel, stride=block.stride,
            padding=block.dilation * (block.kernel // 2), dilation=block.dilation,
            groups=block.hidden, act_cfg=act_cfg, **common)
        self.se = (SqueezeExcite(block.hidden, block.squeeze, act_cfg) if block.squeeze
                   else nn.Identity())
        self.linear_conv = LeanConvModule(block.hidden, block.out_channels, 1, act_cfg=None,
                                          **common)

    def transform(self, x):
        if not self.memory_efficient:
            return self.linear_conv(self.se(self.depthwise_conv(self.expand_conv(x))))
        return self._project(self._depthwise(x))

    def _depthwise(self, x):
        """Expansion and depthwise convolution; of what lies between them nothing is kept."""
        expand, depthwise = self.expand_conv, self.depthwise_conv
        if not (isinstance(expand, ConvModule) and recomputable(x, expand)
                and recomputable(x, depthwise) and movable(depthwise.conv)):
            return depthwise(expand(x))
        return norm_swish(norm_swish(expand.conv(x), expand, depthwise.conv), depthwise)

    def _project(self, x):
        """SE and projection; the product of the two is not kept where it is the larger."""
        linear = self.linear_conv
        if not (type(self.se) is SqueezeExcite and foldable(x, self.se, linear)):
            return linear(self.se(x))
        return linear.norm(gated_projection(x, self.se.gate(x), linear.conv))


class FusedMBConv(ResidualBlock):
    """Edge residual: one full convolution in place of expansion and depthwise.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride).
    """
    order = 'conv1', 'se', 'conv2'

    def __init__(self, block: Block, *, conv_cfg, norm_cfg, act_cfg, drop_path_rate, with_cp):
        super().__init__(block, drop_path_rate, with_cp)
        common = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.conv1 = LeanConvModule(
            block.in_channels, block.hidden, block.kernel, stride=block.stride,
            padding=block.dilation * (block.kernel // 2), dilation=block.dilation,
            act_cfg=act_cfg, **common)
        self.se = (SqueezeExcite(block.hidden, block.squeeze, act_cfg) if block.squeeze
                   else nn.Identity())
        self.conv2 = LeanConvModule(block.hidden, block.out_channels, 1, act_cfg=None, **common)

    def transform(self, x):
        return self.conv2(self.se(self.conv1(x)))


BLOCKS = {'mbconv': MBConv, 'fused': FusedMBConv}
