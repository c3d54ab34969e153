"""Read a picture as people mean it: upright, RGB, its first frame, on white paper.

Imports Pillow and numpy only.
"""
from __future__ import annotations

import os
import threading
import warnings
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmeffnet.errors import InputError, one_line

# Formats whose decoders only decode: Pillow hands EPS to Ghostscript, and takes nearly any
# bytes for TGA.
FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'GIF', 'BMP', 'DIB', 'TIFF', 'AVIF', 'JPEG2000', 'PPM',
           'ICO')
# What counts as a picture in a folder. A file that is named itself is tried whatever its name.
SUFFIXES = frozenset((
    '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp', '.gif', '.bmp', '.dib',
    '.tif', '.tiff', '.avif', '.jp2', '.j2k', '.pbm', '.pgm', '.ppm', '.pnm', '.ico'))

# Up to REDUCED_ABOVE pixels (Pillow's own mark for a suspicious file) a picture is read as it
# is. Above, a JPEG is decoded at 1/2, 1/4 or 1/8 and any other picture averaged down after
# decoding, to a short side that is still more than twice what the largest network takes in.
# Above MOST_PIXELS it is refused before a pixel is decoded: 300 megapixels are 0.9 GB of RGB.
REDUCED_ABOVE = 89_478_485
REDUCED_SIDE = 2048
MOST_PIXELS = 300_000_000

_REDUCIBLE = frozenset(('L', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr'))


class ImageError(InputError):
    """A picture that cannot be read: ``reason`` says why, the message names it as well."""

    def __init__(self, source, reason: str):
        super().__init__(f'{source}: {reason}')
        self.reason = reason


ADDRESS = 'an address, and pictures are read from files only: download it first'


def read_image(path) -> Image.Image:
    """The picture in a file, as RGB with 8 bits a channel.

    Turned upright by its EXIF orientation; the first frame of an animation; what is
    transparent becomes white; 16 bits are scaled to 8, not cut; CMYK is converted without
    its colour profile.
    Raises ImageError where the file is missing, empty, cut short, no picture, or larger
    than ``MOST_PIXELS``.
    """
    given, path = path, Path(path)
    with _decoding(path):
        if path.is_dir():
            raise ImageError(path, 'a folder, not a picture')
        if not path.exists():
            if '://' in str(given):
                raise ImageError(given, ADDRESS)
            raise ImageError(path, 'there is no such file')
        if not path.is_file():
            raise ImageError(path, 'not a regular file')
        if path.stat().st_size == 0:
            raise ImageError(path, 'the file is empty (0 bytes)')
        with own_limit(), Image.open(path, formats=_formats()) as image:
            return to_rgb(image, path)


def as_image(source) -> Image.Image:
    """A picture from a path, a PIL image, or a numpy array.

    An array is (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, uint8.
    Raises ImageError naming the file, or the shape and type of the array.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _decoding('PIL image'):
            return to_rgb(source, 'PIL image')
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    raise ImageError(f'{type(source).__name__}', 'a picture is a path, a PIL image or a numpy '
                     'array (RGB, uint8)')


def to_rgb(image: Image.Image, source) -> Image.Image:
    """An opened picture as upright RGB; ``source`` names it in errors."""
    width, height = image.size
    if not width or not height:
        raise ImageError(source, f'it has no pixels ({width} x {height})')
    if width * height > MOST_PIXELS:
        raise ImageError(source, f'{width} x {height} pixels are {width * height / 1e6:.0f} '
                         f'megapixels, and at most {MOST_PIXELS / 1e6:.0f} are read')
    if width * height > REDUCED_ABOVE:
        # A request, which only the JPEG decoder grants; never smaller than this.
        image.draft(None, (REDUCED_SIDE, REDUCED_SIDE))
    image.load()
    image = _reduced(_upright(image))
    return _reduced(_flat(image, source))


@contextmanager
def _decoding(source):
    """Turn whatever a decoder fails with into an ImageError that names the picture."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(source, 'not a picture in a format that is read here '
                         f'({", ".join(_formats())})') from None
    except Image.DecompressionBombError:
        raise ImageError(source, f'it has more than the {MOST_PIXELS / 1e6:.0f} megapixels that '
                         'are read') from None
    except MemoryError:
        raise ImageError(source, 'it does not fit into memory') from None
    except OSError as error:
        # Of the system, with a number; or Pillow's own, such as of a truncated file.
        reason = error.strerror or f'the file is damaged or cut short ({one_line(error)})'
        raise ImageError(source, reason) from error
    except Exception as error:  # decoders meet damage with any type of error
        raise ImageError(source, f'the file is damaged ({one_line(error)})') from error


class _OwnLimit:
    """Our limit in the place of Pillow's, without its warnings, for whoever reads at the moment.

    Both belong to the process, and threads may read at once: the first one in sets them, and the
    last one out puts back what was there.
    """

    def __init__(self):
        self._lock, self._readers, self._before = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self):
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._set()
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    self._before.close()

    def _set(self) -> None:
        self._before.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        self._before.callback(setattr, Image, 'MAX_IMAGE_PIXELS', Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns there and refuses at twice that


own_limit = _OwnLimit()


@lru_cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: np.ndarray) -> Image.Image:
    is_picture = array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if not is_picture or array.dtype != np.uint8:
        raise ImageError('numpy array', f'shape {array.shape}, {array.dtype} must be (H, W), '
                         '(H, W, 1), (H, W, 3) or (H, W, 4), RGB in uint8')
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size:
        raise ImageError('numpy array', f'shape {array.shape} has no pixels')
    with _decoding('numpy array'):
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)), 'numpy array')


def _reduced(image: Image.Image) -> Image.Image:
    """Average a huge picture down by a whole factor, where its mode can be averaged."""
    factor = min(image.size) // REDUCED_SIDE
    if image.width * image.height <= REDUCED_ABOVE or factor < 2 or image.mode not in _REDUCIBLE:
        return image
    return image.reduce(factor)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # an orientation that cannot be read turns nothing
        return image


def _flat(image: Image.Image, source) -> Image.Image:
    """RGB with 8 bits a channel, on white where it is transparent."""
    if image.mode.startswith('I;16'):
        values, clear = np.asarray(image), image.info.get('transparency')
        flat = Image.fromarray(_TO_8_BITS[values])
        if isinstance(clear, int):
            flat.paste(255, mask=Image.fromarray(values == clear))
    elif image.mode in ('I', 'F'):
        flat = Image.fromarray(_from_wide(np.asarray(image), source))
    elif image.has_transparency_data:
        rgba = image.convert('RGBA')
        flat = Image.alpha_composite(Image.new('RGBA', rgba.size, 'white'), rgba)
    else:
        flat = image
    try:
        return flat.convert('RGB')
    except ValueError:
        raise ImageError(source, f'colour mode {image.mode} is not read') from None


# 65535 becomes 255, everything between in proportion and rounded.
_TO_8_BITS = ((np.arange(1 << 16) * 255 + 32767) // 65535).astype(np.uint8)


def _from_wide(values: np.ndarray, source) -> np.ndarray:
    """8 bits from 32-bit numbers, where their range says what they mean."""
    low, high = values.min(), values.max()
    if values.dtype.kind == 'i' and low >= 0 and high <= 65535:
        return _TO_8_BITS[values]
    if values.dtype.kind == 'f' and low >= 0 and high <= 255:
        return np.uint8(np.round(values * 255 if high <= 1 else values))
    raise ImageError(source, f'32-bit values from {low:g} to {high:g}: brightness must lie in '
                     '0..65535 for whole numbers, in 0..1 or 0..255 for others')
