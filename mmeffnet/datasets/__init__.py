from mmeffnet.datasets.digits import Digits
from mmeffnet.datasets.packed import PackedImages
from mmeffnet.datasets.shards import ShardedImages

__all__ = ['Digits', 'PackedImages', 'ShardedImages']
