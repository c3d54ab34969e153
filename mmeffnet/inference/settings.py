"""How a network wants its picture: size, crop, interpolation and normalisation."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mmcv
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812

from mmeffnet.errors import InputError
from mmeffnet.inference import RESAMPLERS
from mmeffnet.variants import VARIANTS, Norm

# The reference crops away 32 pixels of the resized short side, at every resolution.
BORDER = 32
# A strip is cut to this many times its short side first: resizing 1 x 10000 pixels to a short
# side of 256 would take 2 GB, of which the crop in the middle uses nothing.
MOST_ASPECT = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One network's preprocessing.

    resolution: side of the input in pixels. scale: short side that the picture is resized
    to, of which the middle ``resolution`` pixels are taken. norm: mean and standard
    deviation in 0..255. resampler: 'pil' resizes and then crops, with PIL's antialiased
    filter, which is what timm does, bit for bit; 'cv2' is mmpretrain's
    ``EfficientNetCenterCrop``, which crops and then resizes without antialiasing.
    squash: take the whole picture, its sides made equal; ``scale`` is then the resolution.
    channel_order: 'rgb' or 'bgr', of the tensor that the network takes; ``norm`` is of RGB.
    transforms: configs of mmpretrain's own transforms, which then make the pixels.
    """
    resolution: int
    scale: int
    norm: Norm
    interpolation: str = 'bicubic'
    resampler: str = 'pil'
    squash: bool = False
    channel_order: str = 'rgb'
    transforms: tuple[Mapping, ...] = ()

    def __post_init__(self):
        if self.resampler not in RESAMPLERS:
            raise InputError(f'resampler={self.resampler!r} must be one of {RESAMPLERS}')

    @classmethod
    def of(cls, weights, resampler: str | None = None) -> Settings:
        """What the weights' catalog entry says, or their variant's own numbers without one.

        weights: :class:`mmeffnet.weights.Weights`. A file may state its normalisation itself, that
        of a training its whole test pipeline; one of no known variant has to state both.
        resampler: None, the default, is that of this pipeline, and 'pil' without one.
        """
        entry, usual = weights.entry, weights.entry or VARIANTS.get(weights.variant)
        stated = {} if entry else weights.stated
        found = dict(resampler='pil', squash=bool(entry) and entry.crop_mode == 'squash',
                     norm=weights.norm or stated.get('norm') or usual.norm,
                     interpolation=entry.interpolation if entry else 'bicubic',
                     channel_order=stated.get('channel_order', 'rgb'))
        if usual:
            found |= dict(resolution=usual.resolution,
                          scale=entry.scale if entry else usual.resolution + BORDER)
        found |= stated.get('input', {})
        if resampler:
            found |= dict(resampler=resampler, transforms=())
        return cls(**found)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The (resolution, resolution, 3) uint8 RGB array that is cut from an RGB picture."""
        if not self.squash:
            image = _without_far_ends(image)
        if self.transforms:
            return self._transformed(image)
        if self.squash:
            return self._squashed(image)
        if self.resampler == 'cv2':
            return self._cv2(np.asarray(image))
        image = F.resize(image, self.scale, InterpolationMode(self.interpolation))
        return np.asarray(F.center_crop(image, self.resolution))

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """The normalised (3, resolution, resolution) float32 tensor of an RGB picture."""
        pixels = torch.from_numpy(self.pixels(image).copy()).permute(2, 0, 1).float()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in
                     (self.norm.mean, self.norm.std))
        normalised = (pixels - mean) / std
        return normalised.flip(0) if self.channel_order == 'bgr' else normalised

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what the network sees, in pixels of a picture of ``size``.

        size: width and height.
        """
        if self.squash:
            return (0., 0., *map(float, size))
        side = min(size) * self.resolution / self.scale
        left, top = ((length - side) / 2 for length in size)
        return left, top, left + side, top + side

    def _transformed(self, image: Image.Image) -> np.ndarray:
        from mmpretrain.registry import TRANSFORMS
        # Channels are resized each by itself, so that RGB and BGR give the same.
        results = dict(img=np.asarray(image))
        for step in self.transforms:
            arguments = {key: value for key, value in step.items() if key != 'type'}
            results = TRANSFORMS.get(step['type'])(**arguments).transform(results)
        return results['img']

    def _squashed(self, image: Image.Image) -> np.ndarray:
        size = (self.resolution, self.resolution)
        if self.resampler == 'cv2':
            return mmcv.imresize(np.asarray(image), size, interpolation=self.interpolation)
        return np.asarray(F.resize(image, size, InterpolationMode(self.interpolation)))

    def _cv2(self, pixels: np.ndarray) -> np.ndarray:
        from mmpretrain.datasets.transforms import EfficientNetCenterCrop
        crop = EfficientNetCenterCrop(self.resolution, crop_padding=self.scale - self.resolution,
                                      interpolation=self.interpolation, backend='cv2')
        return crop.transform(dict(img=pixels))['img']


def _without_far_ends(image: Image.Image) -> Image.Image:
    width, height = image.size
    most = MOST_ASPECT * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
