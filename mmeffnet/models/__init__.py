from mmeffnet.models.efficientnet import EfficientNet
from mmeffnet.models.head import EfficientNetHead
from mmeffnet.models.layers import Conv2dSame, FanOutNormal

__all__ = ['Conv2dSame', 'EfficientNet', 'EfficientNetHead', 'FanOutNormal']
