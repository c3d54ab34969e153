"""Maps of segmentation data: whether a sample's fits its picture and has labels of the classes."""
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from mmeffnet.engine.missing import not_there, refuse
from mmeffnet.errors import InputError
from mmeffnet.weights.translate import few

NAMED = 5  # files in a message
OPENED = 16  # maps that are looked into, about
WIDE = 'I', 'F'  # how Pillow's modes of more than 8 bits begin


class MapError(ValueError):
    """A map that nothing can be learned from, or measured with; the message names it."""


class Labels(NamedTuple):
    """The labels that the maps of a data set may have."""
    classes: int
    ignored: tuple[int, ...]

    def check(self, packed, path: str, training: bool) -> None:
        """Look at the maps of a sample that a pipeline has packed.

        path: of the file, for the message. training: whether the map goes through the pipeline with
        its picture; else predictions are brought to the picture's size as it was.
        Raises MapError for a map of several channels, another size, or a label of no class.
        """
        for picture, sample in _samples(packed):
            found = getattr(sample, 'gt_sem_seg', None)
            labels = getattr(found, 'data', None)
            if labels is None:
                continue
            name = f'map {path!r} of image {sample.metainfo.get("img_path")!r}'
            if labels.ndim == 3 and len(labels) == 1:
                labels = labels[0]
            if labels.ndim != 2:
                raise MapError(f'{name} is no map: it has the shape {tuple(labels.shape)}, and '
                               'one label for each pixel is needed, in one channel')
            sizes = [tuple(size[:2]) for size in (sample.metainfo.get('ori_shape'), ) if size]
            after = ''
            if training or not sizes:
                sizes.append(tuple(picture.shape[-2:]))
                after = ' after its transforms'
            if tuple(labels.shape) not in sizes:
                raise MapError(f'{name} has {_size(labels.shape)} pixels and the image '
                               f'{_size(sizes[-1])}{after}: both must have one size')
            self._check_labels(labels, name)

    def _check_labels(self, labels: torch.Tensor, name: str) -> None:
        most = max(self.classes, 2) - 1  # a single class has a background beside it
        wrong = (labels < 0) | (labels > most)
        for ignored in self.ignored:
            wrong &= labels != ignored
        if wrong.any():
            besides = ''.join(f', or are {number}, which is ignored (ignore_index)'
                              for number in self.ignored)
            raise MapError(f'{name} has label {int(labels[wrong][0])}: with {self.classes} classes '
                           f'labels run from 0 to {most}{besides}')


def _samples(packed) -> Iterator[tuple]:
    """Picture and annotations of a packed sample, several where it is augmented for a test."""
    if not isinstance(packed, dict) or 'data_samples' not in packed or 'inputs' not in packed:
        return
    pictures, samples = packed['inputs'], packed['data_samples']
    yield from zip(pictures, samples) if isinstance(samples, list) else [(pictures, samples)]


def _size(shape) -> str:
    return ' x '.join(map(str, shape))


def labels_of(dataset, users) -> Labels | None:
    """What the maps of a data set of mmseg may have; None for other data, and without classes.

    users: gives losses, heads or metrics, of which some say by ``ignore_index`` what they ignore;
    where none does it is what the data set says.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    # Maps of mmdet's data sets have other labels than its boxes, and more of them.
    if not classes or not hasattr(dataset, 'reduce_zero_label'):
        return None
    return Labels(len(classes), _ignored(users()) or _ignored([dataset]))


def _ignored(users) -> tuple[int, ...]:
    said = {getattr(user, 'ignore_index', None) for user in users}
    return tuple(sorted(number for number in said if isinstance(number, int)))


def check_files(dataset, loader: str, most_missing: int = 0) -> None:
    """Refuse segmentation data of which maps are not there or have labels beyond 8 bits, or
    pictures that a list names are not there.

    most_missing: how many samples may lack a file. Raises InputError with their number and first
    names, or the name of such a map.
    """
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    if getattr(dataset, 'backend_args', None) or not any(
            getattr(step, 'with_seg', False) for step in steps):  # elsewhere, or not read
        return
    samples, maps = [], []  # and not all that is known of a sample
    for info in map(dataset.get_data_info, range(len(dataset))):
        samples.append([Path(info[key]) for key in ('img_path', 'seg_map_path')
                        if info.get(key) and '://' not in info[key]])
        maps += [info['seg_map_path']] if info.get('seg_map_path') else []
    absent = not_there({path for paths in samples for path in paths})
    lacking = [missing for paths in samples if (missing := [p for p in paths if p in absent])]
    if lacking:
        text = (f'{loader}: {len(lacking):,} of {len(samples):,} samples lack their picture or '
                'map: ' + few((repr(str(path)) for paths in lacking for path in paths), NAMED))
        if any(getattr(step, 'ignore_empty', False) for step in steps):  # another is taken then
            most_missing = len(samples)
        refuse(text, 'Bring them, or take their samples out', loader, len(lacking), most_missing,
               'samples')
    if any(type(step).__module__.startswith('mmseg.') for step in steps
           if getattr(step, 'with_seg', False)):
        _check_bits(maps, loader)


def _check_bits(paths: list[str], loader: str) -> None:
    """Refuse maps of which mmseg would cut labels to 8 bits; some maps stand for all."""
    for path in paths[::max(1, len(paths) // OPENED)]:
        try:
            with Image.open(path) as picture:
                if not picture.mode.startswith(WIDE):
                    continue
                labels = np.asarray(picture)
        # What cannot be read is named when it is, or is missing and told.
        except (OSError, Image.DecompressionBombError):
            continue
        # Of 257 times a label its last 8 bits are the label; 65535 becomes 255.
        wide = labels[(labels > 255) & (labels % 257 != 0)]
        if wide.size:
            raise InputError(f'{loader}: map {str(path)!r} has label {int(wide[0])}, which mmseg '
                             f'would take for {int(wide[0]) % 256}: it keeps 8 bits of a label. '
                             'Save maps of 8 bits, with labels from 0 to 254 and 255 for what is '
                             'ignored')
