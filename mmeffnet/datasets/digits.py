"""The data set of the quickstart: real handwritten digits that need no download."""
import numpy as np
from mmpretrain.datasets import BaseDataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mmeffnet.registry import DATASETS

TEST_SHARE = 0.2
SPLIT_SEED = 0
WHITE = 16  # pixels of the source run from 0 to 16


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
        digits = load_digits()
        halves = train_test_split(np.arange(len(digits.target)), test_size=TEST_SHARE,
                                  random_state=SPLIT_SEED, stratify=digits.target)
        chosen = halves[0] if self.split == 'train' else halves[1]
        images = np.round(digits.images * (255 / WHITE)).astype(np.uint8)
        return [dict(img=np.repeat(images[i][..., None], 3, axis=-1),
                     img_shape=images[i].shape, ori_shape=images[i].shape,
                     gt_label=int(digits.target[i]), source_index=int(i)) for i in chosen]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}']
