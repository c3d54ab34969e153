"""EXIF data is found wherever it lies, and means to a part of a JPEG what it means to OpenCV."""
import struct

import cv2
import numpy as np
import pytest
from picture_files import segment, written
from PIL import Image

from mmeffnet.datasets.decoding import Picture, upright

XMP = segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')
PROFILE = segment(0xe2, b'ICC_PROFILE\0\1\1'.ljust(6000, b'\0'))


def exif(value, order='<', kind=3, size='H', count=1):
    """EXIF data of one field, the orientation."""
    field = struct.pack(f'{order}HHI', 0x0112, kind, count) + struct.pack(order + size, value)
    head = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}IH', 8, 1)
    return segment(0xe1, b'Exif\0\0' + head + field.ljust(12, b'\0') + bytes(4))


PLAIN = {'nothing': b'', 'orientation 1': exif(1), 'of the other order': exif(1, '>'),
         'XMP alone': XMP, 'XMP after EXIF': exif(1) + XMP, 'a profile': PROFILE}
DOUBTFUL = {
    **{f'orientation {value}': exif(value) for value in (0, 2, 3, 6, 8, 9)},
    'of the other order, turned': exif(6, '>'), 'after a profile': PROFILE + exif(6),
    'after XMP': XMP + exif(6), 'the first of two': exif(6) + exif(1),
    'the second of two': exif(1) + exif(6), 'four bytes': exif(6, kind=4, size='I'),
    'four bytes, of the other order': exif(6, '>', 4, 'I'), 'one byte': exif(6, kind=1, size='B'),
    'of no type': exif(6, kind=0), 'after fill bytes': b'\xff\xff' + exif(6),
    'after bytes of no segment': b'\0x' + exif(6), 'without end': exif(6)[:-6] + bytes(6),
    'of another name': exif(6).replace(b'Exif', b'EXIF')}


@pytest.fixture
def content(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    return written(tmp_path / 'a.jpg', image).read_bytes()


@pytest.mark.parametrize('name', [*PLAIN, *DOUBTFUL])
def test_pictures_are_turned_as_opencv_turns_them(name, content):
    content = content[:20] + {**PLAIN, **DOUBTFUL}[name] + content[20:]
    assert upright(content) == (name in PLAIN)
    expected, picture = cv2.imdecode(np.frombuffer(content, np.uint8), 1), Picture(content, 'a')
    assert picture.shape == expected.shape[:2]
    assert np.array_equal(picture.part(0, 0, *picture.shape), expected)


def test_what_lies_behind_the_header_turns_nothing(content):
    behind = content.index(b'\xff\xda')
    assert upright(content[:behind] + content[behind:-2] + exif(6) + content[-2:])


def test_a_header_may_end_anywhere(content):
    content = content[:20] + PROFILE + exif(6) + content[20:]
    for end in range(len(content)):
        assert isinstance(upright(content[:end]), bool)


def test_pictures_too_large_for_pillow_are_read(content, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    picture = Picture(content[:20] + exif(6) + content[20:], 'a')
    assert picture.shape == (40, 24)
