"""Training crops whose JPEG files are decoded on the model's device, not by a loading worker.

A worker reads a file, looks at its header and draws crop and flip; the file itself is what it hands
on. The data preprocessor decodes a batch through torchvision, which does so by nvJPEG on CUDA.
"""
import logging
import warnings
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image

from mmeffnet.datasets.decoding import JPEG, Picture, upright
from mmeffnet.datasets.transforms import LoadRandomCrop, inside
from mmeffnet.errors import RunError, one_line
from mmeffnet.registry import MODELS, TRANSFORMS

INTERPOLATIONS = 'bicubic', 'bilinear'


@TRANSFORMS.register_module()
class LoadEncodedRandomCrop(LoadRandomCrop):
    """``LoadRandomCrop`` without the decoding, which is left to ``DecodingDataPreprocessor``.

    Draws the same from the same random state. Pictures that are no upright gray or RGB JPEG are
    decoded and cropped here. Nothing that needs pixels can come after it but ``PackEncoded``.

    Needs ``img_path``. Sets ``img``: bytes, the file's; or, where the crop was made here, those of
    (scale, scale, 3) uint8, BGR. ``crop``: top, left, bottom and right in the decoded picture, in
    pixels, the last two being the first outside; None where it was made here. ``interpolation``;
    and ``img_shape``, ``ori_shape``, ``flip`` and ``flip_direction`` as ``LoadRandomCrop`` does.

    Args:
        scale (int): Side of the crop that is given, in pixels.
        interpolation (str): 'bicubic', the default, or 'bilinear'; as OpenCV's.
        **kwargs: As for ``LoadRandomCrop``.

    Raises ValueError for a file that is no picture, and for pixels, as packed pictures have.
    """

    def __init__(self, scale: int, interpolation: str = 'bicubic', **kwargs):
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'interpolation={interpolation!r} must be one of {INTERPOLATIONS}')
        super().__init__(scale, interpolation=interpolation, **kwargs)

    def transform(self, results: dict) -> dict:
        if results.get('img') is not None:
            raise ValueError('the picture is decoded already: LoadRandomCrop takes it, and '
                             'LoadEncodedRandomCrop takes files')
        content = self._content(results['img_path'])
        size = _jpeg_size(content)
        if size is None:
            results['img'] = Picture(content, results['img_path'])
            results = super().transform(results)
            results.update(img=results['img'].tobytes(), crop=None)
        else:
            # What draws asks for a shape alone.
            crop = inside(self.rand_crop_params(np.broadcast_to(np.uint8(0), size)), *size)
            results.update(img=content, crop=crop, img_shape=(*self.scale, 3), ori_shape=size)
            self._draw_flip(results)
        results['interpolation'] = self.interpolation
        return results


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of an upright gray or RGB JPEG; None for whatever else."""
    if content[:3] != JPEG or not upright(content):
        return None
    try:
        with Image.open(BytesIO(content), formats=['JPEG']) as image:
            return image.size[::-1] if image.mode in ('L', 'RGB') else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # a torn header, or more pixels than Pillow takes: OpenCV reads what it can


@TRANSFORMS.register_module()
class PackEncoded(PackInputs):
    """``PackInputs`` for ``LoadEncodedRandomCrop``: ``inputs`` are bytes.

    Both of MMEngine's collate functions make a list of them.
    """

    def __init__(self, *args, meta_keys=(*PackInputs.DEFAULT_META_KEYS, 'crop', 'interpolation'),
                 **kwargs):
        super().__init__(*args, meta_keys=meta_keys, **kwargs)

    @staticmethod
    def format_input(input_):
        if not isinstance(input_, bytes):
            raise TypeError('PackEncoded packs what LoadEncodedRandomCrop gives, and nothing that '
                            f'changes pixels can come between; got {type(input_).__name__}')
        return input_


@MODELS.register_module()
class DecodingDataPreprocessor(ClsDataPreprocessor):
    """``ClsDataPreprocessor`` that decodes, crops, resizes and flips files on its device.

    ``inputs`` are the bytes that ``PackEncoded`` gives, one for each image of the batch; images of
    the usual pipelines, such as those of validation, are taken as ``ClsDataPreprocessor`` does.
    A file that the device's decoder refuses is decoded on the CPU. Arguments are the same.

    Raises RunError for a file that nothing here reads, by name.
    """
    _told = False

    def forward(self, data: dict, training: bool = False) -> dict:
        inputs = data['inputs']
        if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], bytes):
            samples = data['data_samples']
            data = {**data, 'inputs': torch.stack(self._images(inputs, samples))}
        return super().forward(data, training)

    def _images(self, contents, samples) -> list[torch.Tensor]:
        """Each image as (3, H, W), BGR, of whole numbers from 0 to 255 in float32."""
        files = [number for number, sample in enumerate(samples) if sample.crop is not None]
        pictures = dict(zip(files, self._crops([contents[i] for i in files],
                                               [samples[i] for i in files])))
        images = []
        for number, (content, sample) in enumerate(zip(contents, samples, strict=True)):
            if number in pictures:
                images.append(_resized(pictures[number], sample))
            else:
                pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                images.append(pixels.view(sample.img_shape).permute(2, 0, 1)
                              .to(self.device, torch.float32))
        return images

    def _crops(self, files: list[bytes], samples: list) -> list[torch.Tensor]:
        """The crop of each file, as (3, H, W) uint8, BGR."""
        try:
            decoded = decode_jpegs(files, self.device)
        except torch.OutOfMemoryError:  # a RuntimeError, and no file is to blame
            raise
        except RuntimeError:  # says neither which file it is nor what the others are
            return [self._alone(file, sample) for file, sample in zip(files, samples)]
        return [_part(picture, sample.crop) for picture, sample in zip(decoded, samples)]

    def _alone(self, file: bytes, sample) -> torch.Tensor:
        try:
            return _part(decode_jpegs([file], self.device)[0], sample.crop)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not self._told:  # a torchvision without nvJPEG would refuse each of them
                print_log(f'image {sample.img_path!r} is decoded on the CPU, and so are others '
                          f'that {self.device} cannot decode: {one_line(error)}', 'current',
                          logging.WARNING)
            self._told = True
        try:
            pixels = Picture(file, sample.img_path).part(*sample.crop)
        except ValueError as error:
            raise RunError(f'image {sample.img_path!r} cannot be decoded: {error}. Look through '
                           'the data with tools/check_data.py') from error
        return torch.tensor(pixels, device=self.device).permute(2, 0, 1)


def decode_jpegs(files: list[bytes], device: torch.device) -> list[torch.Tensor]:
    """Pictures as (3, H, W) uint8, RGB, on a device. RuntimeError where one cannot be decoded."""
    from torchvision.io import ImageReadMode, decode_jpeg
    if not files:
        return []
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    with warnings.catch_warnings():
        # From 0.29 on torchvision advises TorchCodec, each of which fits one PyTorch alone.
        warnings.simplefilter('ignore', DeprecationWarning)
        return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _part(picture: torch.Tensor, crop: tuple) -> torch.Tensor:
    top, left, bottom, right = crop
    return picture[:, top:bottom, left:right].flip(0)


def _resized(crop: torch.Tensor, sample) -> torch.Tensor:
    """The crop at the size and in the direction of the sample, rounded as OpenCV does."""
    image = F.interpolate(crop[None].float(), sample.img_shape[:2], mode=sample.interpolation,
                          align_corners=False)[0].round_().clamp_(0, 255)
    return image.flip(-1) if sample.get('flip') else image
