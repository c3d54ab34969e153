"""The data set of the segmentation quickstart; needs mmsegmentation."""
from mmseg.datasets import BaseSegDataset

from mmeffnet.datasets.scenes import CLASSES, make_scenes
from mmeffnet.registry import DATASETS

ONE_CLASS = ('background', 'digit')


@DATASETS.register_module()
class DigitMasks(BaseSegDataset):
    """Handwritten digits on photographs, pixel by pixel: the background and ten classes, or one.

    Made in ``data_root`` when it is not there; see :func:`mmeffnet.datasets.scenes.make_scenes`.

    Args:
        split (str): 'train' or 'val'.
        data_root (str): Folder of the scenes. Defaults to 'data/digit_scenes'.
        scenes (dict): Arguments of ``make_scenes``: train, val, size, seed. Defaults to its own.
        metainfo (dict): ``dict(classes=('background', 'digit'))`` makes one class of all digits.
            Defaults to one class for each.
        pipeline (Sequence): Transforms. Defaults to none.
        test_mode, indices: As in mmseg.

    Raises ValueError for another split, and InputError as ``make_scenes`` does.
    """
    METAINFO = {'classes': ('background', *CLASSES),
                'palette': [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115],
                            [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
                            [150, 150, 150], [120, 70, 20], [255, 255, 255]]}

    def __init__(self, split: str, data_root: str = 'data/digit_scenes', scenes: dict | None = None,
                 metainfo: dict | None = None, pipeline=(), test_mode: bool = False, indices=None):
        if split not in ('train', 'val'):
            raise ValueError(f"split={split!r} must be 'train' or 'val'")
        make_scenes(data_root, **(scenes or {}))
        if metainfo and 'classes' in metainfo:
            metainfo = {'palette': self.METAINFO['palette'][:len(metainfo['classes'])], **metainfo}
        super().__init__(
            metainfo=metainfo, img_suffix='.jpg', seg_map_suffix='.png', data_root=data_root,
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}'),
            pipeline=list(pipeline), test_mode=test_mode, indices=indices)

    @classmethod
    def get_label_map(cls, new_classes=None):
        """Old label -> new label; the class 'digit' stands for every digit."""
        if tuple(new_classes or ()) == ONE_CLASS:
            return {0: 0, **dict.fromkeys(range(1, len(cls.METAINFO['classes'])), 1)}
        return super().get_label_map(new_classes)
