"""The data set of the detection quickstart; needs mmdet."""
from mmdet.datasets import CocoDataset

from mmeffnet.datasets.scenes import CLASSES, make_scenes
from mmeffnet.registry import DATASETS


@DATASETS.register_module()
class DigitScenes(CocoDataset):
    """Handwritten digits on photographs, with boxes and masks: ten classes.

    Made in ``data_root`` when it is not there; see :func:`mmeffnet.datasets.scenes.make_scenes`.

    Args:
        split (str): 'train' or 'val'.
        data_root (str): Folder of the scenes. Defaults to 'data/digit_scenes'.
        scenes (dict): Arguments of ``make_scenes``: train, val, size, seed. Defaults to its own.
        pipeline (Sequence): Transforms. Defaults to none.
        filter_cfg, test_mode, indices: As in mmdet.

    Raises ValueError for another split, and InputError as ``make_scenes`` does.
    """
    METAINFO = {'classes': CLASSES}

    def __init__(self, split: str, data_root: str = 'data/digit_scenes', scenes: dict | None = None,
                 pipeline=(), filter_cfg: dict | None = None, test_mode: bool = False,
                 indices=None):
        if split not in ('train', 'val'):
            raise ValueError(f"split={split!r} must be 'train' or 'val'")
        make_scenes(data_root, **(scenes or {}))
        super().__init__(
            ann_file=f'annotations/{split}.json', data_root=data_root,
            data_prefix=dict(img=f'images/{split}'), pipeline=list(pipeline),
            filter_cfg=filter_cfg, test_mode=test_mode, indices=indices)
