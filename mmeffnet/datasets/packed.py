"""Pictures decoded once, in files that are mapped into memory."""
from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset

from mmeffnet.datasets.archive import Archive, Kind, Sample
from mmeffnet.errors import RunError, one_line
from mmeffnet.registry import DATASETS

KIND = 'packed images'
AT_ONCE = 64  # pictures in memory while a part is written
# Transforms that make pixels of their own, whatever they are given. Others may write into what they
# get, as RandomErasing does, and a file of pictures is not for writing.
RESAMPLING = {'EfficientNetCenterCrop', 'EfficientNetRandomCrop', 'LoadRandomCrop',
              'RandomResizedCrop', 'Resize', 'ResizeEdge'}


def packing(short_side: int, workers: int = 1) -> Kind:
    """Payloads of pixels: (H, W, 3) uint8, BGR, one picture after another.

    short_side: pictures are made smaller, by the mean over areas, until their shorter side has so
    many pixels; smaller ones stay as they are.
    """
    return Kind(KIND, '.bin', partial(_write, short_side=short_side, workers=workers),
                dict(short_side=short_side))


def _write(path: Path, samples: Sequence[Sample], short_side: int, workers: int
           ) -> list[list[int]]:
    places, offset = [], 0
    with path.open('wb') as file, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(samples), AT_ONCE):
            for pixels in pool.map(lambda sample: small(sample.path, short_side),
                                   samples[start:start + AT_ONCE]):
                places.append([offset, *pixels.shape[:2]])
                offset += file.write(np.ascontiguousarray(pixels))
    return places


def small(path: str, short_side: int) -> np.ndarray:
    """A picture as (H, W, 3) uint8, BGR, with ``short_side`` pixels at least and at best.

    Raises RunError for a file that is no picture.
    """
    try:
        if not os.path.getsize(path):
            raise ValueError('it is empty')
        image = mmcv.imread(path, backend='cv2')
        if image is None:
            raise ValueError('OpenCV reads no picture in it')
    except Exception as error:
        raise RunError(f'{path!r} cannot be packed: {one_line(error)}. tools/check_data.py finds '
                       'all such files') from error
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = round(width * scale), round(height * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


class Maps(dict):
    """The parts of an archive by number, each mapped into memory when it is first asked for.

    A copy, here or in a process that is spawned, maps them itself.
    """

    def __init__(self, archive: Archive):
        super().__init__()
        self.archive = archive

    def __missing__(self, part: int) -> mmap.mmap:
        path = self.archive.folder / self.archive.parts[part]['file']
        with path.open('rb') as file:
            self[part] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self[part]

    def __reduce__(self) -> tuple:
        return Maps, (self.archive, )


@DATASETS.register_module()
class PackedImages(BaseDataset):
    """Pictures that tools/pack_images.py has decoded; nothing is left but to crop them.

    A sample has ``img``: (H, W, 3) uint8, BGR, where the pipeline begins with resampling a view of
    a file in memory that cannot be written to; ``img_shape``, ``ori_shape``, ``gt_label``, and
    ``img_path``: the part and the name in it.

    Args:
        data_root (str): Folder of the archive.
        pipeline (Sequence): Transforms, without one that loads a file. Defaults to none.
        **kwargs: As in mmengine: ``test_mode``, ``indices``, ``metainfo``.

    Raises InputError for a folder that is no such archive, or of which a part is missing or torn.
    """

    def __init__(self, data_root: str, pipeline: Iterable = (), **kwargs):
        self._archive = Archive(data_root, KIND)
        self._maps = Maps(self._archive)
        metainfo = dict(kwargs.pop('metainfo', None) or {})
        if self._archive.classes:
            metainfo.setdefault('classes', self._archive.classes)
        super().__init__(ann_file='', metainfo=metainfo or None, data_root=data_root,
                         pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict]:
        files = [part['file'] for part in self._archive.parts]
        return [dict(img_path=f'{files[part]}: {name}', gt_label=label, place=(part, *place))
                for part, name, label, place in self._archive.rows()]

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        part, offset, height, width = info.pop('place')
        pixels = np.frombuffer(self._maps[part], np.uint8, 3 * height * width,
                               offset).reshape(height, width, 3)
        first = next(iter(getattr(self.pipeline, 'transforms', ())), None)
        info['img'] = pixels if type(first).__name__ in RESAMPLING else pixels.copy()
        info['img_shape'] = info['ori_shape'] = height, width
        return info

    def extra_repr(self) -> list[str]:
        return [f'Archive: \t{self._archive.folder}, {self._archive.options}']
