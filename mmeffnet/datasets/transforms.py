"""The training crop read straight from the file, and images packed without being copied."""
import cv2
import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmpretrain.datasets.transforms import EfficientNetRandomCrop, PackInputs

from mmeffnet.datasets.decoding import Picture
from mmeffnet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadRandomCrop(EfficientNetRandomCrop):
    """``LoadImageFromFile``, ``EfficientNetRandomCrop`` and a horizontal ``RandomFlip`` in one.

    Draws the same from the same random state and gives the same pixels; of a JPEG only the crop is
    decoded, where nvidia-nvimgcodec-cu12 is installed (docs/data.md).

    Needs ``img_path``, or ``img``: (H, W, 3) uint8, BGR. Sets ``img``: (scale, scale, 3) uint8,
    BGR; ``img_shape``; ``ori_shape``: height and width of the whole picture; ``flip`` and
    ``flip_direction`` as ``RandomFlip`` does.

    Args:
        scale (int): Side of the crop that is given, in pixels.
        flip_prob (float): Share of images that are flipped, 0 to 1. Defaults to 0: draws nothing.
        backend_args (dict, optional): Of the storage, as in ``LoadImageFromFile``.
        **kwargs: As for ``EfficientNetRandomCrop``.

    Raises ValueError for a file that is no picture. Source: mmpretrain 1.2.
    """

    def __init__(self, scale: int, flip_prob: float = 0., backend_args: dict | None = None,
                 **kwargs):
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob={flip_prob!r} must be between 0 and 1')
        super().__init__(scale, **kwargs)
        self.flip_prob, self.backend_args = flip_prob, backend_args

    def transform(self, results: dict) -> dict:
        picture = results.get('img')
        if picture is None:
            picture = Picture(self._content(results['img_path']), results['img_path'])
        height, width = picture.shape[:2]
        part = inside(self.rand_crop_params(picture), height, width)
        if isinstance(picture, Picture):
            pixels = picture.part(*part)
        else:
            pixels = picture[part[0]:part[2], part[1]:part[3]]
        pixels = mmcv.imresize(pixels, self.scale[::-1], backend=self.backend,
                               interpolation=self.interpolation)
        if self._draw_flip(results):
            pixels = cv2.flip(pixels, 1)
        results.update(img=pixels, img_shape=pixels.shape, ori_shape=(height, width))
        return results

    def _draw_flip(self, results: dict) -> bool:
        if not self.flip_prob:
            return False
        # RandomFlip asks numpy for a choice, which draws this one number.
        flip = bool(np.random.random_sample() < self.flip_prob)
        results.update(flip=flip, flip_direction='horizontal' if flip else None)
        return flip

    def _content(self, path: str) -> bytes:
        if self.backend_args is None and '://' not in path:
            with open(path, 'rb', buffering=0) as file:
                return file.read()
        return fileio.get(path, backend_args=self.backend_args)


def inside(crop: tuple, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a drawn crop.

    The crop that is taken where no draw fits has a size that is no whole number; mmcv.imcrop
    drops the fractions of its corners, the last pixel inside being one of them. Of a picture of
    few rows or columns nothing would be left, and it stops: here one pixel is.
    """
    top, left, crop_height, crop_width = crop
    first = top, left = int(top), int(left)
    ends = (min(int(start + length - 1), side - 1) for start, length, side in zip(
        crop[:2], (crop_height, crop_width), (height, width)))
    return (*first, *(max(start, end) + 1 for start, end in zip(first, ends)))


@TRANSFORMS.register_module()
class PackChannelsLast(PackInputs):
    """``PackInputs`` whose image is a view: (3, H, W), with the channels last in memory.

    Values and shapes are those of ``PackInputs``. Copying channels first takes a tenth of the time
    of loading an image, and networks that run with channels last would copy it back.
    """

    @staticmethod
    def format_input(input_):
        if not isinstance(input_, np.ndarray) or input_.ndim != 3:
            return PackInputs.format_input(input_)
        if input_.strides[1] < 0:
            # A flipped image is a view with its columns backwards; numpy copies that pixel by
            # pixel, ten times as slowly as OpenCV flips.
            input_ = cv2.flip(np.ascontiguousarray(input_[:, ::-1]), 1)
        return torch.from_numpy(np.ascontiguousarray(input_)).permute(2, 0, 1)
