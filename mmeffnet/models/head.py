"""The classification head: mmpretrain's, with dropout."""
import math

from mmengine.logging import print_log
from mmpretrain.models.heads import LinearClsHead
from torch import nn

from mmeffnet.registry import MODELS
from mmeffnet.variants import get_variant


@MODELS.register_module()
class EfficientNetHead(LinearClsHead):
    """Dropout and a linear classifier, over features that are pooled already.

    (N, in_channels) to (N, num_classes). Keys as in mmpretrain's ``LinearClsHead``.

    Args:
        num_classes (int): Number of classes.
        arch (str, optional): Variant that ``in_channels`` and ``dropout`` are taken from
            where they are not given. Defaults to None.
        in_channels (int, optional): Channels of the features.
        dropout (float, optional): Dropout rate in training, 0 without an ``arch``.
        loss (dict): Loss. Defaults to cross entropy.
        topk (int | Sequence[int]): Accuracies to calculate; clipped, with one notice, to
            what ``num_classes`` allows. Defaults to (1, ).
        cal_acc (bool): Whether to calculate accuracy in training. Defaults to False.
        init_cfg (dict, optional): Initial weights; None, the default, is uniform within
            1 / sqrt(num_classes), bias 0, as in the reference TPU code.

    Raises ValueError naming the argument, its value and the rule.
    """

    def __init__(self, num_classes, arch=None, in_channels=None, dropout=None,
                 loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0), topk=(1, ),
                 cal_acc=False, init_cfg=None):
        if not isinstance(num_classes, int) or num_classes <= 0:
            raise ValueError(f'num_classes={num_classes!r} must be a whole number above 0')
        if arch is not None:
            variant = get_variant(arch)
            in_channels = variant.arch.head if in_channels is None else in_channels
            dropout = variant.dropout if dropout is None else dropout
        if in_channels is None:
            raise ValueError('the head needs in_channels, or arch to take it from')
        dropout = 0.0 if dropout is None else dropout
        if not (isinstance(dropout, (int, float)) and 0 <= dropout < 1):
            raise ValueError(f'dropout={dropout!r} must be at least 0, below 1')
        if init_cfg is None:
            limit = 1 / math.sqrt(num_classes)
            init_cfg = dict(type='Uniform', layer='Linear', a=-limit, b=limit)
        super().__init__(num_classes=num_classes, in_channels=in_channels, init_cfg=init_cfg,
                         loss=loss, topk=clip_topk(topk, num_classes), cal_acc=cal_acc)
        self.dropout = nn.Dropout(dropout)

    def pre_logits(self, feats):
        """The features that the linear layer sees, after dropout."""
        return self.dropout(super().pre_logits(feats))


def clip_topk(topk, num_classes: int) -> tuple[int, ...]:
    """The members of ``topk`` that ``num_classes`` classes can have, with one notice.

    ValueError for what is no whole number above 0, or several.
    """
    given, topk = topk, (topk, ) if isinstance(topk, int) else tuple(topk)
    if not topk or not all(isinstance(k, int) and k > 0 for k in topk):
        raise ValueError(f'topk={given!r} must be whole numbers above 0, such as (1, 5)')
    kept = tuple(k for k in topk if k <= num_classes) or (num_classes, )
    if kept != topk:
        print_log(f'topk={topk} is cut to {kept}: there are {num_classes} classes', 'current')
    return kept
