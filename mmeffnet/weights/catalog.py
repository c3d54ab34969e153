"""The published sets of weights, and what each of them needs.

This module imports the standard library, ``arch``, ``variants``, ``files`` and ``errors`` only.
"""
from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from mmeffnet.arch import nearest
from mmeffnet.errors import InputError
from mmeffnet.files import file_sum
from mmeffnet.variants import HALF_NORM, IMAGENET_NORM, Norm

PUBLISHED = Path(__file__).with_name('published.csv')  # tools/make_catalog.py writes it
INPUTS = {'imagenet': IMAGENET_NORM, 'half': HALF_NORM}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published set of weights.

    name: 'efficientnet-<variant>_<publisher>[-<set>]_<data>'. layout: whose keys it has.
    address: where the file is. source: what ``load_weights`` takes for it.
    digest: 'sha256:' or 'md5:' with the hash, or the part of it that is published; '' for none.
    size: bytes, to the nearest KiB, where published. resolution: side of the input in pixels.
    crop: side of the crop as a share of the resized side; None is EfficientNet's own,
    r / (r + 32). crop_mode: 'center', or 'squash' for the whole image, its sides made equal.
    norm: of RGB input in 0..255. padding: 'same' or 'symmetric'.
    eps: of BatchNorm. top1, top5: per cent on ImageNet as published by ``results_source``, not
    reproduced here. licence: of the weights or, where they state none, of their repository.
    """
    name: str
    variant: str
    layout: str
    source: str
    address: str
    digest: str
    size: int | None
    resolution: int
    crop: float | None
    crop_mode: str
    interpolation: str
    norm: Norm
    channel_order: str
    padding: str
    eps: float
    classes: int
    top1: float | None
    top5: float | None
    results_source: str
    licence: str

    @property
    def scale(self) -> int:
        """The short side that an image is resized to before it is cropped."""
        # Rounded down as timm does; the crops in the table have at most eight digits.
        return int(self.resolution / self.crop + 1e-3) if self.crop else self.resolution + 32


FIELDS = ['input' if field.name == 'norm' else field.name for field in fields(Entry)]


def _read() -> dict[str, Entry]:
    types = dict(size=int, resolution=int, crop=float, eps=float, classes=int, top1=float,
                 top5=float)
    entries = {}
    with PUBLISHED.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            values = {name: (types[name](value) if value else None) if name in types else value
                      for name, value in row.items()}
            entry = Entry(norm=INPUTS[values.pop('input')], **values)
            entries[entry.name] = entry
    return entries


CATALOG: Mapping[str, Entry] = _read()


def get_entry(name: str) -> Entry:
    """Look a set up; ValueError names the nearest one where there is none."""
    try:
        return CATALOG[name]
    except KeyError:
        raise ValueError(f'{name!r} is no published set{nearest(name, CATALOG)}') from None


def find(**wanted) -> list[Entry]:
    """The sets whose fields have these values: ``find(variant='b0', padding='same')``.

    Raises ValueError for a field that no set has.
    """
    known = [field.name for field in fields(Entry)]
    for name in wanted:
        if name not in known:
            raise ValueError(f'no field is called {name!r}{nearest(name, known)}')
    return [entry for entry in CATALOG.values()
            if all(getattr(entry, name) == value for name, value in wanted.items())]


@lru_cache(maxsize=1)
def _by_source() -> dict[str, Entry]:
    found = {}
    for entry in CATALOG.values():
        names = [entry.name, entry.source, entry.address]
        if '-' in Path(entry.address).name and entry.digest:  # a name that carries a hash
            names.append(Path(entry.address).name)
        for name in names:
            found.setdefault(name, entry)
    return found


def identify(source) -> Entry | None:
    """The set that a name, an address or a path is.

    A path, and an address on another host, by a file name with a hash in it.
    """
    source = str(source).removeprefix('mmeffnet://')
    known = _by_source()
    return known.get(source) or known.get(Path(source).name)


def verify(path, entry: Entry) -> None:
    """Refuse a file that is not the published one.

    Raises InputError with the size or hash that was expected and found, and the way out.
    """
    path = Path(path)
    way_out = ('remove it and download it again, or rename the file to use it as one of your own')
    size = path.stat().st_size
    if entry.size and abs(size - entry.size) > 1024:
        raise InputError(f'{str(path)!r} has {size:,} bytes, and {entry.name} about '
                         f'{entry.size:,}: {way_out}')
    kind, _, expected = entry.digest.partition(':')
    if expected:
        found = file_sum(path, kind)
        if not found.startswith(expected):
            raise InputError(f'{str(path)!r} has the {kind} {found[:len(expected)]}, and '
                             f'{entry.name} {expected}: {way_out}')
