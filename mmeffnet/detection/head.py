"""The heads and the anchors of EfficientDet; needs mmdet."""
from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.model import bias_init_with_prob
from torch import nn

from mmeffnet.detection.layers import SeparableConv
from mmeffnet.grids import DEFAULTS
from mmeffnet.models.layer_configs import complete_norm_cfg
from mmeffnet.registry import MODELS, TASK_UTILS

# Width and height of anchors; their areas differ a little, and published weights know these.
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
PRIOR = 0.01  # the share of objects that classifiers start from


@TASK_UTILS.register_module()
class EfficientDetAnchorGenerator(AnchorGenerator):
    """Anchors of the reference code, centred on each element: scale by scale, then aspects.

    Args:
        strides (Sequence[int]): Pixels of the input per element of each level.
        anchor_scale (float): Side of the smallest anchor, in strides. Defaults to 4.
        scales_per_octave (int): Scales from one level to the next. Defaults to 3.
        aspects (Sequence): Width and height of each shape, in sides. Defaults to the reference's.
    """

    def __init__(self, strides: Sequence[int], anchor_scale: float = 4.0,
                 scales_per_octave: int = 3, aspects: Sequence = ASPECTS):
        self.aspects = torch.tensor(aspects)
        super().__init__(strides=strides, ratios=[h / w for w, h in aspects],
                         octave_base_scale=anchor_scale, scales_per_octave=scales_per_octave,
                         scale_major=False, center_offset=0.5)

    def gen_single_level_base_anchors(self, base_size, scales, ratios, center=None):
        sides = base_size * scales.to(self.aspects)[:, None, None] * self.aspects
        half = sides.reshape(-1, 2) / 2
        middle = torch.tensor(center or (self.center_offset * base_size, ) * 2)
        return torch.cat([middle - half, middle + half], dim=-1)


class Tower(nn.Module):
    """Convolutions that all levels share, with normalisation of each level's own, then values.

    A list of (N, channels, H, W) to a list of (N, outputs, H, W).
    """

    def __init__(self, channels: int, repeats: int, levels: int, outputs: int, norm_cfg: dict):
        super().__init__()
        self.convs = nn.ModuleList(SeparableConv(channels, channels) for _ in range(repeats))
        self.norms = nn.ModuleList(
            nn.ModuleList(build_norm_layer(norm_cfg, channels)[1] for _ in range(levels))
            for _ in range(repeats))
        self.act = nn.SiLU()
        self.predict = SeparableConv(channels, outputs)

    def forward(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        outputs = []
        for level, x in enumerate(levels):
            for conv, norms in zip(self.convs, self.norms):
                x = self.act(norms[level](conv(x)))
            outputs.append(self.predict(x))
        return outputs


@MODELS.register_module()
class EfficientDetHead(AnchorHead):
    """Classes and boxes from every level of a pyramid (EfficientDet, CVPR 2020, section 4.2).

    Gives, for each level, class logits (N, anchors x num_classes, H, W) and box deltas
    (N, anchors x 4, H, W), x and y first. Losses are summed over anchors and divided by one more
    than the positive anchors of the batch, as in the reference code.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of every level.
        stacked_convs (int): Convolutions before each prediction. Defaults to 3.
        norm_cfg (dict, optional): Defaults to BatchNorm with TensorFlow's eps and momentum.
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: As in mmdet's
            ``AnchorHead``; by default those of the reference: focal loss of gamma 1.5 and Huber's
            loss with delta 0.1, weighted 50 and averaged over the four coordinates.
        init_cfg (dict, optional): Initial weights. Defaults to variance 1 / fan-in; classes start
            at a probability of 0.01.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 3,
                 norm_cfg: dict | None = None,
                 anchor_generator=DEFAULTS['EfficientDetHead']['anchor_generator'],
                 bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder'),
                 loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=1.5, alpha=0.25),
                 # Huber is delta times smooth L1: 0.1 x 50 / 4.
                 loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=0.1, loss_weight=1.25),
                 train_cfg: dict | None = None, test_cfg: dict | None = None,
                 init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in',
                               nonlinearity='linear', distribution='normal')):
        if stacked_convs < 1:
            raise ValueError(f'stacked_convs={stacked_convs} must be at least 1')
        self.stacked_convs, self.norm_cfg = stacked_convs, complete_norm_cfg(norm_cfg)
        super().__init__(num_classes, in_channels, feat_channels=in_channels,
                         anchor_generator=anchor_generator, bbox_coder=bbox_coder,
                         loss_cls=loss_cls, loss_bbox=loss_bbox, train_cfg=train_cfg,
                         test_cfg=test_cfg, init_cfg=init_cfg)

    def _init_layers(self) -> None:
        common = dict(channels=self.in_channels, repeats=self.stacked_convs,
                      levels=self.prior_generator.num_levels, norm_cfg=self.norm_cfg)
        self.classes = Tower(outputs=self.num_base_priors * self.cls_out_channels, **common)
        self.boxes = Tower(outputs=self.num_base_priors * 4, **common)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.constant_(self.classes.predict.pointwise.bias, bias_init_with_prob(PRIOR))

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[list, list]:
        return self.classes(levels), self.boxes(levels)

    def get_targets(self, *args, **kwargs) -> tuple:
        labels, weights, box_targets, box_weights, _, *rest = super().get_targets(*args, **kwargs)
        positives = sum(((level >= 0) & (level < self.num_classes)).sum() for level in labels)
        return (labels, weights, box_targets, box_weights, positives + 1.0, *rest)
