"""The data set of the quickstart: real handwritten digits that need no download."""
import numpy as np
from mmpretrain.datasets import BaseDataset

from mmeffnet.datasets.digit_images import digit_images
from mmeffnet.registry import DATASETS


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 handwritten digits, 8x8 pixels, ten classes, as scikit-learn carries them.

    Every image is a (8, 8, 3) uint8 array with three equal channels, in ``img``; the
    pipeline starts without a loading step; ``source_index`` is its place in
    ``sklearn.datasets.load_digits``. The split is fixed and stratified: 1,437 digits
    to train and 360 to test.
    Source: UCI "Optical Recognition of Handwritten Digits", CC BY 4.0.

    Args:
        split (str): 'train' or 'test'.
        pipeline (Sequence): Transforms. Defaults to none.
        test_mode (bool): As in mmengine. Defaults to False.
        indices (int | Sequence[int], optional): Use these samples only.

    Raises ValueError for another split.
    """
    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str, pipeline=(), test_mode: bool = False, indices=None):
        if split not in ('train', 'test'):
            raise ValueError(f"split={split!r} must be 'train' or 'test'")
        self.split = split
        super().__init__(ann_file='', pipeline=pipeline, test_mode=test_mode, indices=indices)

    def load_data_list(self) -> list[dict]:
        return [dict(img=np.repeat(image[..., None], 3, axis=-1), img_shape=image.shape,
                     ori_shape=image.shape, gt_label=int(label), source_index=int(index))
                for image, label, index in zip(*digit_images(self.split))]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}']
