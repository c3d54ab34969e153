"""Pixels of a part of a JPEG file, without decoding what lies outside it.

NVIDIA's nvImageCodec decodes on the CPU through libjpeg-turbo: rows below the part are not read at
all, and what lies beside it is read but not transformed. Where that library is missing, and for
what it is not used for, the whole picture is decoded by OpenCV; the pixels are the same.
"""
import importlib
import os
from contextlib import contextmanager
from functools import cache
from io import BytesIO

import mmcv
import numpy as np
from PIL import ExifTags, Image

JPEG, EXIF = b'\xff\xd8\xff', b'Exif\0\0'
HEADER = 4096  # bytes in which EXIF data begins, when there is any


class Picture:
    """An encoded picture: its size at once, its pixels when they are asked for.

    content: the bytes of a file. name: of the picture, for errors. Source of the equality with
    OpenCV: tests/datasets/test_transforms.py.
    """

    def __init__(self, content: bytes, name: str):
        self._content, self._name, self._stream, self._pixels = content, name, None, None
        if content[:3] == JPEG and _decoder() and upright(content):
            self._stream = _stream(content)
        if self._stream is None:
            self._pixels = self._decoded()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        if self._stream is None:
            return self._pixels.shape[:2]
        return self._stream.height, self._stream.width

    def part(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, as (H, W, 3) uint8, BGR.

        ``bottom`` and ``right`` are the first outside. Raises ValueError for what is no picture.
        """
        if self._stream is not None:
            library, (decoder, params) = _library(), _decoder()
            found = decoder.decode(self._stream.get_sub_code_stream(
                region=library.Region(top, left, bottom, right)), params=params)
            if found is not None:
                return np.asarray(found)
            # A torn file: OpenCV says what it makes of it.
            self._stream, self._pixels = None, self._decoded()
        return self._pixels[top:bottom, left:right]

    def _decoded(self) -> np.ndarray:
        pixels = mmcv.imfrombytes(self._content, flag='color', backend='cv2') \
            if self._content else None
        if pixels is None:
            raise ValueError(f'{self._name!r} is no picture that OpenCV reads '
                             f'({len(self._content):,} bytes)')
        return pixels


def _stream(content: bytes):
    """A JPEG as nvImageCodec has it; None for a torn header, and for colours of printers."""
    try:
        stream = _library().CodeStream(content)
        return stream if stream.num_channels in (1, 3) else None
    except RuntimeError:
        return None


def upright(content: bytes) -> bool:
    """Whether OpenCV would leave the picture as it lies, other than its EXIF data may tell."""
    if EXIF not in content[:HEADER]:
        return True
    try:
        with Image.open(BytesIO(content)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except (OSError, SyntaxError, ValueError):  # of a torn header; OpenCV says what it makes of it
        return False


@cache
def _library():
    """The module of nvImageCodec, or None."""
    # It writes about each codec of a GPU that it does not find; 0 is "errors alone".
    os.environ.setdefault('PYNVIMGCODEC_VERBOSITY', '0')
    try:
        with _without_stderr():
            return importlib.import_module('nvidia.nvimgcodec')
    except ImportError:
        return None


_decoders: dict[int, tuple] = {}


def _decoder() -> tuple | None:
    """A decoder of this process and its parameters; None without the library."""
    if (library := _library()) is None:
        return None
    # A forked worker must not use its parent's: the threads in it are gone.
    if (process := os.getpid()) not in _decoders:
        _decoders.clear()
        _decoders[process] = (
            library.Decoder(device_id=library.NVIMGCODEC_DEVICE_CPU_ONLY, max_num_cpu_threads=1,
                            backends=[library.Backend(library.BackendKind.CPU_ONLY)]),
            library.DecodeParams(sample_format=library.SampleFormat.I_BGR))
    return _decoders[process]


@contextmanager
def _without_stderr():
    """What native libraries write while they are loaded goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
