"""Many pictures as few large files: parts, their indices, and a manifest that is written last.

An archive is a folder. Each part has a payload and, written after it, an index with the payload's
sum and the name, label and place of each sample; so an interrupted writer goes on where it was.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmeffnet.errors import InputError, one_line
from mmeffnet.files import remove_parts, whole

MANIFEST = 'archive.json'
VERSION = 1
BLOCK = 1 << 20


class Sample(NamedTuple):
    """A picture to be written: where it is read, its name in the archive and its class."""
    path: str
    name: str
    label: int


class Kind(NamedTuple):
    """What the payloads are, their suffix, and how one is written.

    write(path, samples): gives the place of each sample in the payload, a list of whole numbers.
    options: what the payload depends on, beside the samples.
    """
    name: str
    suffix: str
    write: Callable[[Path, Sequence[Sample]], list[list[int]]]
    options: dict


def write_archive(folder: Path, kind: Kind, samples: Sequence[Sample], per_part: int,
                  classes: Sequence[str] | None = None,
                  progress: Callable[[Iterable, int], Iterable] = lambda items, total: items
                  ) -> int:
    """Write an archive, or the rest of it; gives the number of parts that were there already.

    Raises InputError where the folder holds another archive, or something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = [samples[i:i + per_part] for i in range(0, len(samples), per_part)]
    manifest = dict(kind=kind.name, version=VERSION, options=kind.options, samples=len(samples),
                    per_part=per_part, classes=list(classes) if classes else None,
                    digest=_digest([sample[1:] for sample in samples]))
    _refuse_another(folder, manifest, len(slices), kind.suffix)
    remove_parts(folder)
    known = 0
    for number, slice_ in enumerate(progress(slices, len(slices))):
        payload = folder / f'part-{number:05d}{kind.suffix}'
        digest = _digest([kind.options, [sample[1:] for sample in slice_]])
        if _is_written(payload, digest):
            known += 1
            continue
        with whole(payload) as part:
            places = kind.write(part, slice_)
            index = dict(digest=digest, sha256=sha256(part), bytes=part.stat().st_size,
                         names=[sample.name for sample in slice_],
                         labels=[sample.label for sample in slice_], places=places)
        _write_json(_index(payload), index)
    parts = []
    for number in range(len(slices)):
        payload = folder / f'part-{number:05d}{kind.suffix}'
        index = _read_json(_index(payload))
        parts.append(dict(file=payload.name, bytes=index['bytes'], sha256=index['sha256'],
                          samples=len(index['names'])))
    _write_json(folder / MANIFEST, dict(manifest, parts=parts))
    return known


class Archive:
    """An archive that is there: its manifest, and its samples as they lie in the parts.

    Raises InputError for a folder that is none, another kind, and a part that is missing or has
    another size than it was written with.
    """

    def __init__(self, folder: str | Path, kind: str):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            begun = any(self.folder.glob('part-*'))
            raise InputError(
                f'{str(folder)!r} is no archive: it has no {MANIFEST}'
                + ('; its writing was begun and not ended: run the tool that writes it again'
                   if begun else ''))
        manifest = _read_json(path)
        if (manifest.get('kind'), manifest.get('version')) != (kind, VERSION):
            raise InputError(f'{str(path)!r} is of kind {manifest.get("kind")!r}, version '
                             f'{manifest.get("version")!r}; {kind!r}, {VERSION} is wanted')
        self.classes, self.options = tuple(manifest['classes'] or ()), manifest['options']
        self.parts, self.samples = manifest['parts'], manifest['samples']
        for part in self.parts:
            _check_size(self.folder / part['file'], part['bytes'])

    def rows(self) -> Iterable[tuple[int, str, int, list[int]]]:
        """For each sample: number of its part, name, label, place."""
        for number, part in enumerate(self.parts):
            index = _read_json(_index(self.folder / part['file']))
            for row in zip(index['names'], index['labels'], index['places'], strict=True):
                yield number, *row

    def verify(self, progress: Callable[[Iterable, int], Iterable] = lambda items, total: items
               ) -> list[str]:
        """Names of the parts whose content is not what was written."""
        return [part['file'] for part in progress(self.parts, len(self.parts))
                if sha256(self.folder / part['file']) != part['sha256']]


def sha256(path: Path) -> str:
    """The sum of a file's content."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() \
            if hasattr(hashlib, 'file_digest') else _sha256(file)


def _sha256(file) -> str:  # Python 3.10
    total = hashlib.sha256()
    while block := file.read(BLOCK):
        total.update(block)
    return total.hexdigest()


def samples_of(dataset) -> list[Sample]:
    """The pictures of a data set of MMEngine's, with names below the folder they share.

    Raises InputError for a data set whose samples are no files with a class each.
    """
    rows = [dataset.get_data_info(i) for i in range(len(dataset))] \
        if hasattr(dataset, 'get_data_info') else []
    if not rows or not all('img_path' in row and isinstance(row.get('gt_label'), int)
                           for row in rows):
        raise InputError(f'{type(dataset).__name__} has no files with one class each, which are '
                         'what can be written here')
    paths = [os.path.abspath(row['img_path']) for row in rows]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Sample(path, Path(path).relative_to(shared).as_posix(), row['gt_label'])
            for path, row in zip(paths, rows)]


def _refuse_another(folder: Path, manifest: dict, parts: int, suffix: str) -> None:
    path = folder / MANIFEST
    if path.is_file():
        found = _read_json(path)
        differ = [key for key in manifest if found.get(key) != manifest[key]]
        if differ:
            raise InputError(f'{str(folder)!r} holds another archive (it differs in '
                             f'{", ".join(differ)}); choose another --out')
    known = {f'part-{n:05d}{end}' for n in range(parts) for end in (suffix, '.json')} | {MANIFEST}
    foreign = sorted(item.name for item in folder.iterdir()
                     if item.name not in known and not item.match('.*.part'))
    if foreign:
        raise InputError(f'--out {str(folder)!r} holds {foreign[0]!r}, which is no part of this '
                         'archive; choose another folder')


def _is_written(payload: Path, digest: str) -> bool:
    index = _index(payload)
    if not index.is_file():
        return False
    found = _read_json(index)
    if found['digest'] != digest:
        raise InputError(f'{str(index)!r} belongs to an archive of other pictures or options; '
                         'choose another --out, or remove that folder')
    return payload.is_file() and sha256(payload) == found['sha256']


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f'{str(path)!r}, a part of an archive, cannot be read: '
                         f'{error.strerror}') from error
    if size != expected:
        raise InputError(f'{str(path)!r} has {size:,} bytes and was written with {expected:,}: it '
                         'is torn; remove it and run the tool that writes it again')


def _index(payload: Path) -> Path:
    return payload.with_suffix('.json')


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write_json(path: Path, content: dict) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(content))


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f'{str(path)!r} cannot be read: {one_line(error)}') from error
