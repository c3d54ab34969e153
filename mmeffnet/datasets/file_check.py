"""Whether one file is a picture that a training reads."""
from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmeffnet.datasets.sources import Problem
from mmeffnet.inference.images import ImageError, own_limit, read_image

# Formats by the suffixes they usually have; a file of another format trains all the same.
USUAL = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.png': 'PNG', '.webp': 'WEBP', '.gif': 'GIF',
         '.bmp': 'BMP', '.tif': 'TIFF', '.tiff': 'TIFF'}


def check_file(path: Path, max_pixels: int) -> tuple[list[Problem], str | None]:
    """The problems of one picture, and the hash of its bytes where it can be read.

    Bytes that are missing within a JPEG are none: all readers guess what was there and go on.
    """
    name = str(path)
    if not path.is_file():
        told = 'a link that leads nowhere' if path.is_symlink() else \
            'the list names a file that does not exist'
        return [Problem('missing', name, told)], None
    size = path.stat().st_size
    if size == 0:
        return [Problem('empty file', name, '0 bytes')], None
    try:
        data = path.read_bytes()
        read_image(path)  # decoded to the end: a file cut short is found by nothing less
        with own_limit(), Image.open(BytesIO(data)) as image:
            kind, (width, height) = image.format, image.size
    except ImageError as error:
        return [Problem('unreadable', name, error.reason)], None
    except OSError as error:
        return [Problem('unreadable', name, error.strerror or str(error))], None
    if not _opencv_reads(data, kind):
        return [Problem('unreadable', name, f'Pillow reads this {kind} file, but OpenCV, which '
                        'trainings read with, does not: write it anew')], None
    found = []
    if width * height > max_pixels:
        found.append(Problem('oversized', name, f'{width} x {height} pixels, more than '
                             f'{max_pixels:,}: each epoch decodes all of them'))
    usual = USUAL.get(path.suffix.lower())
    if usual and kind != usual and (usual, kind) != ('JPEG', 'MPO'):
        found.append(Problem('wrong type', name, f'it is a {kind} file'))
    return found, hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _opencv_reads(data: bytes, kind: str) -> bool:
    """Whether OpenCV reads a file, too, that Pillow has decoded to the end."""
    # Both have JPEG's common decoder, and differ over files without their end alone.
    if kind == 'JPEG' and data.endswith(b'\xff\xd9'):
        return True
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    except cv2.error:  # such as of more pixels than it takes
        return False
