"""The backbone: an architecture turned into layers."""
from numbers import Integral

import torch
from mmengine.model import BaseModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet.features import FeatureInfo, check_indices, feature_info, resolve_arch
from mmeffnet.models.blocks import BLOCKS
from mmeffnet.models.deploy import (
    check_arguments,
    check_form,
    convert,
    fold,
    forget_rests,
    prepare,
)
from mmeffnet.models.direct import direct
from mmeffnet.models.layer_configs import check_layer, complete_norm_cfg
from mmeffnet.models.layers import FanOutNormal
from mmeffnet.models.loading import any_layout, translate_in_place
from mmeffnet.models.plan import Plans
from mmeffnet.models.recompute import LeanConvModule, choose_backward
from mmeffnet.registry import MODELS

CONVS = {'same': dict(type='mmeffnet.Conv2dSame'), 'symmetric': dict(type='Conv2d')}

INITIAL_WEIGHTS = (dict(type='mmeffnet.FanOutNormal'),
                   dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1))


@MODELS.register_module()
class EfficientNet(BaseModule):
    """EfficientNet, EfficientNet-EdgeTPU and EfficientNet-Lite backbones.

    (N, in_channels, H, W) to a tuple of (N, channels, H / stride, W / stride), sizes
    rounded up. Output ``i`` comes from ``layers[i]``: 0 the stem, then one group of stages
    per resolution (1 to 5 at strides 2, 4, 8, 16, 32 in the published networks), last the
    head convolution (6). Same arguments, outputs and ``state_dict`` keys as mmpretrain's.

    Args:
        arch (str | dict | Arch): A variant ('b0'..'b8', 'l2', 'es', 'em', 'el',
            'lite0'..'lite4'), or an architecture, see :class:`mmeffnet.arch.Arch`.
        drop_path_rate (float): Share of the samples dropped at the last block; block i of N
            drops ``drop_path_rate * i / N``. Defaults to 0.
        out_indices (Sequence[int]): Outputs to return, in ascending order; -1 is the last.
            Layers after the last output are neither run nor trained. Defaults to (-1, ).
        frozen_stages (int): Freeze the first ``frozen_stages`` entries of ``layers``, weights
            and BatchNorm statistics; 1 is the stem alone. 0, the default, freezes nothing;
            -1 is refused, as in mmpretrain.
        conv_cfg (dict, optional): None, the default, keeps the padding of the family, which
            is TensorFlow's SAME. ``dict(type='Conv2d')`` asks for the symmetric padding that
            PyTorch-trained weights need. Other registered layers are taken as they are.
        norm_cfg (dict, optional): Defaults to None, BatchNorm. A BatchNorm of any kind has
            eps 1e-3 and momentum 0.01 unless it is told otherwise.
        act_cfg (dict, optional): Defaults to None, the activation of the family.
        norm_eval (bool): Keep BatchNorm in eval mode; weights stay trainable.
            Defaults to False.
        with_cp (bool): Recompute blocks in the backward pass to save memory; changes no
            result. Defaults to False.
        init_cfg (dict | list[dict], optional): Initial weights; None, the default, is the
            reference rule, :class:`mmeffnet.models.layers.FanOutNormal`. The checkpoint of a
            ``dict(type='Pretrained', checkpoint=...)`` may have any layout and address that
            :func:`mmeffnet.weights.load_weights` reads, with or without ``prefix``.
        in_channels (int): Channels of the input. Defaults to 3.
        scaling (dict | ModelScaling, optional): Compound scaling to apply to ``arch``, which
            must be unscaled: a base variant ('b0', 'es', 'lite0') or an architecture. A dict has
            the arguments of :class:`mmeffnet.ModelScaling`; its type may be left out.
        output_stride (int, optional): Stride that no output exceeds, 8 or 16 for segmentation:
            stages that would exceed it are dilated in place of strided, with the same weights.
            Defaults to None, the strides of the architecture.
        memory_efficient (bool): Keep about half as much for the backward pass, by computing
            BatchNorm and Swish once more there; with other layers it saves less. Gradients are
            the same, those of gradients are refused. Defaults to False.
        fast_gradients (bool): On a CPU, let the first steps measure which formulas compute the
            gradients of depthwise convolutions the fastest, and take those: runs are no longer
            equal to the bit. Gradients of gradients are refused. Defaults to False.
        deploy (bool): Build what :meth:`switch_to_deploy` leaves, for weights that were saved
            after it. Defaults to False.

    A state dict of another library's layout is translated while it is loaded. Raises ValueError
    naming the argument, its value and the rule, and InputError for weights that do not fit.
    """

    has_weights = False  # whether any were loaded since the network was made

    def __init__(self, arch='b0', drop_path_rate=0., out_indices=(-1, ), frozen_stages=0,
                 conv_cfg=None, norm_cfg=None, act_cfg=None, norm_eval=False, with_cp=False,
                 init_cfg=None, in_channels=3, scaling=None, output_stride=None,
                 memory_efficient=False, fast_gradients=False, deploy=False):
        super().__init__(list(INITIAL_WEIGHTS) if init_cfg is None else init_cfg)
        self.arch = resolve_arch(arch, scaling)
        self.conv_cfg = conv_cfg or CONVS[self.arch.padding]
        self.norm_cfg = complete_norm_cfg(norm_cfg)
        self.act_cfg = act_cfg or dict(type=self.arch.activation)
        for name in ('conv_cfg', 'act_cfg'):
            check_layer(name, getattr(self, name))
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.out_channels = self.arch.head
        if not (_is_whole(in_channels) and in_channels > 0):
            raise ValueError(f'in_channels={in_channels!r} must be a whole number above 0')
        if not (isinstance(drop_path_rate, (int, float)) and 0 <= drop_path_rate < 1):
            raise ValueError(f'drop_path_rate={drop_path_rate!r} must be at least 0, below 1')
        self.drop_path_rate = drop_path_rate
        for name, value in dict(
                norm_eval=norm_eval, with_cp=with_cp, memory_efficient=memory_efficient,
                fast_gradients=fast_gradients, deploy=deploy).items():
            if not isinstance(value, bool):  # 'no' from a command line would mean yes
                raise ValueError(f'{name}={value!r} must be True or False')
        self.output_stride = output_stride

        conv = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        groups = self._make_groups()
        self.layers = nn.ModuleList([
            LeanConvModule(int(in_channels), self.arch.stem, 3, stride=2, padding=1, **conv),
            *groups,
            LeanConvModule(self.arch.stages[-1].channels, self.arch.head, 1, **conv)])
        self.out_indices = check_indices(out_indices, len(self.layers))
        if not (_is_whole(frozen_stages) and 0 <= frozen_stages <= len(self.layers)):
            raise ValueError(f'frozen_stages={frozen_stages!r} must be from 0 (nothing frozen) '
                             f'to {len(self.layers)} (all layers frozen)')
        self.frozen_stages = frozen_stages
        # mmcv's layers start with other weights; a network that nobody calls
        # ``init_weights`` on has to be right too.
        FanOutNormal()(self.layers)
        for layer in self.layers[self.out_indices[-1] + 1:]:
            layer.requires_grad_(False)  # no gradient would ever reach it: DDP refuses that
        self._freeze()
        choose_backward(self.layers, memory_efficient, fast_gradients)
        self.deploy = False
        self.plans = Plans()  # of a deployed network
        if deploy:
            self.switch_to_deploy()

    def _make_groups(self) -> list[nn.Sequential]:
        blocks = self.arch.blocks(self.output_stride)
        total, index, groups = sum(map(len, blocks)), 0, []
        for group in blocks:
            layers = []
            for block in group:
                layers.append(BLOCKS[block.kind](
                    block, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
                    drop_path_rate=self.drop_path_rate * index / total, with_cp=self.with_cp))
                index += 1
            groups.append(nn.Sequential(*layers))
        return groups

    @property
    def feature_info(self) -> FeatureInfo:
        """Index, name, channels and stride of each output that ``forward`` returns."""
        return feature_info(self.arch, self.out_indices, output_stride=self.output_stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outs = self.plans.run(self, x) if self.deploy and direct(x) else None
        if outs is not None:
            return outs
        outs = []
        for i, layer in zip(range(self.out_indices[-1] + 1), self.layers):
            x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def init_weights(self) -> None:
        """Initial weights, and last those of a checkpoint in any layout."""
        given = self.init_cfg
        self.init_cfg = any_layout(given)
        try:
            super().init_weights()
        finally:
            self.init_cfg = given

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Before the children see it: PyTorch and MMEngine hand each of them its own keys.
        translate_in_place(self, state_dict, prefix)
        check_form(state_dict, prefix, self.deploy)
        forget_rests(self)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.has_weights = True

    def switch_to_deploy(self, size=None, dtype: torch.dtype | None = None) -> None:
        """Fold BatchNorm into the convolutions, for inference alone; outputs stay the same.

        Of each ``conv.weight`` and its ``bn.*`` the state dict keeps ``conv.weight`` and
        ``conv.bias``; a backbone built with ``deploy=True`` loads it. Not to be undone.

        size: height and width of images to prepare for: what is worked out at the first image of
        a size, such as its padding, is worked out now. Every other size works too.
        dtype: of weights and images from then on, such as ``torch.bfloat16``. Rounding keeps the
        sum of each depthwise kernel and, in inference on a CPU, the biases, which ``.to(dtype)``
        does not: outputs stay closer. A state dict saved after it has the rounded biases alone.
        In channels last :mod:`mmeffnet.models.plan` runs it, which holds weights a second time
        on a CPU.
        Raises ValueError where something else than BatchNorm normalises, or for another size or
        type, and leaves the network as it was.
        """
        check_arguments(size, dtype)
        if not self.deploy:
            fold(self)
            self.deploy = True
        if dtype is not None:
            convert(self, dtype)
        if size is not None:
            prepare(self, size)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The depth of a parameter and the number of depths, for learning rates by layer.

        Depth ``i`` is ``layers[i]``; what does not start with ``prefix``, such as a head, lies
        one deeper. mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` asks for it.
        """
        last = len(self.layers)
        if not param_name.startswith(f'{prefix}layers.'):
            return last, last + 1
        return int(param_name.removeprefix(f'{prefix}layers.').partition('.')[0]), last + 1

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        for layer in self.layers[:self.frozen_stages]:
            layer.eval()
            layer.requires_grad_(False)


def _is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
