"""Pixels of a part of a JPEG file, without decoding what lies outside it.

NVIDIA's nvImageCodec decodes on the CPU through libjpeg-turbo: rows below the part are not read at
all, and what lies beside it is read but not transformed. Where that library is missing, and for
what it is not used for, the whole picture is decoded by OpenCV; the pixels are the same.
"""
import importlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import mmcv
import numpy as np

JPEG = b'\xff\xd8\xff'
SOS, EOI, APP1 = 0xda, 0xd9, 0xe1
ORIENTATION, SHORT = 0x0112, 3  # of EXIF data: a field, and the type that it has
NO_SEGMENT = {0x00, 0x01, *range(0xd0, 0xd9)}  # markers that no length follows


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
    """Whether OpenCV leaves a JPEG as it lies; False where its EXIF data leaves a doubt."""
    try:
        return all(_plain(data[6:]) for data in _app1(content))
    except struct.error:  # torn: OpenCV says what it makes of it
        return False


def _app1(content: bytes) -> Iterator[bytes]:
    """The data of each APP1 segment ahead of the pixels, found from length to length.

    OpenCV looks for EXIF data in the first one, other readers in more. Any other segment may come
    before it, and be long: colour profiles and Photoshop's data are.
    """
    at = 2
    while 0 <= (at := content.find(b'\xff', at)) < len(content) - 3:
        marker = content[at + 1]
        if marker in (SOS, EOI):
            return
        if marker == 0xff:  # as many as a writer likes may stand before a marker
            at += 1
        elif marker in NO_SEGMENT:
            at += 2
        else:
            end = at + 2 + int.from_bytes(content[at + 2:at + 4], 'big')
            if marker == APP1:
                yield content[at + 4:end]
            at = end


def _plain(tiff: bytes) -> bool:
    """Whether EXIF data states no orientation, or the usual one in the usual way."""
    order = '<' if tiff[:2] == b'II' else '>'
    if len(tiff) < 8 or struct.unpack_from(order + 'H', tiff, 2) != (42, ):
        return True  # something else, such as XMP
    start, = struct.unpack_from(order + 'I', tiff, 4)
    count, = struct.unpack_from(order + 'H', tiff, start)
    fields = (struct.unpack_from(order + 'HHIH', tiff, start + 2 + 12 * i) for i in range(count))
    return all(field[1:] == (SHORT, 1, 1) for field in fields if field[0] == ORIENTATION)


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
