"""mmpretrain's ResNet with any number of blocks in its stages."""
from collections.abc import Sequence

from mmpretrain.models.backbones import ResNet
from mmpretrain.models.backbones.resnet import Bottleneck

from mmeffnet.registry import MODELS


@MODELS.register_module()
class ScaledResNet(ResNet):
    """A ResNet of bottleneck blocks; width by mmpretrain's ``base_channels``.

    (N, 3, H, W) to a tuple of the outputs of stages. With the blocks of a published depth it is
    mmpretrain's network of that depth, key by key.

    Args:
        stage_blocks (Sequence[int]): Blocks of each of the four stages.
        kwargs: As mmpretrain's ``ResNet`` takes them, without ``depth``.

    Raises ValueError for other than four whole numbers above 0.
    """

    def __init__(self, stage_blocks: Sequence[int] = (3, 4, 6, 3), **kwargs):
        blocks = tuple(stage_blocks)
        if len(blocks) != 4 or not all(isinstance(n, int) and n > 0 for n in blocks):
            raise ValueError(f'stage_blocks={stage_blocks!r} must be four whole numbers above 0')
        self.arch_settings = {50: (Bottleneck, blocks)}
        super().__init__(depth=50, **kwargs)
