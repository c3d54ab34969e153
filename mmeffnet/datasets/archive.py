"""Many pictures as few large files: parts, their indices, and a manifest that is written last.

An archive is a folder. Each part has a payload and an index with the payload's sum and the name,
label and place of each sample; so an interrupted writer goes on where it was. The index is there
first: a payload without one is somebody else's file, and is not written over.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mmeffnet.datasets.archive_index import (
    Sample,
    described,
    digest,
    index_of,
    is_sound,
    is_written,
    our_index,
    read_json,
    write_json,
)
from mmeffnet.errors import InputError, one_line
from mmeffnet.files import file_sum, remove_parts, whole

MANIFEST = 'archive.json'
LOCK = '.writing'
VERSION = 1
# What files.whole calls a file that it writes; earlier versions did so by the process alone.
HALF = re.compile(r'\.(.+)\.\d+(-[0-9a-f]+)?\.part')


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

    Raises InputError where the folder holds another archive, or something else, and while another
    process writes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _write(folder, kind, samples, per_part, classes, progress)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A lock on the folder, which ends with the process, however that ends."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f'--out {str(folder)!r} is being written by another process: wait until '
                         'that has ended, or choose another folder') from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes nothing that is open
            os.unlink(lock.lock_file)  # nobody waits for it
        lock.release()


def _write(folder: Path, kind: Kind, samples: Sequence[Sample], per_part: int, classes, progress
           ) -> int:
    slices = {folder / f'part-{start // per_part:05d}{kind.suffix}': samples[start:start + per_part]
              for start in range(0, len(samples), per_part)}
    manifest = dict(kind=kind.name, version=VERSION, options=kind.options, samples=len(samples),
                    per_part=per_part, classes=list(classes) if classes else None,
                    digest=digest([sample[1:] for sample in samples]))
    _refuse_another(folder, manifest)
    _refuse_foreign(folder, kind, slices)
    remove_parts(folder)
    known = 0
    for payload, slice_ in progress(slices.items(), len(slices)):
        if is_written(payload, kind.options, slice_):
            known += 1
            continue
        with whole(payload) as part:
            index = described(part, kind.options, slice_, kind.write)
            (folder / MANIFEST).unlink(missing_ok=True)  # it tells of the parts as they were
            write_json(index_of(payload), index)
    parts = []
    for payload in slices:
        index = read_json(index_of(payload))
        parts.append(dict(file=payload.name, bytes=payload.stat().st_size, sha256=index['sha256'],
                          samples=len(index['names'])))
    write_json(folder / MANIFEST, dict(manifest, parts=parts))
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
        manifest = read_json(path)
        if (manifest.get('kind'), manifest.get('version')) != (kind, VERSION):
            raise InputError(f'{str(path)!r} is of kind {manifest.get("kind")!r}, version '
                             f'{manifest.get("version")!r}; {kind!r}, {VERSION} is wanted')
        try:
            self.classes, self.options = tuple(manifest['classes'] or ()), manifest['options']
            self.samples = manifest['samples']
            self.parts = [{key: part[key] for key in ('file', 'bytes', 'sha256', 'samples')}
                          for part in manifest['parts']]
        except (KeyError, TypeError) as error:
            raise InputError(f'{str(path)!r} is not what was written ({one_line(error)}): remove '
                             'it and run the tool that writes the archive again') from error
        for part in self.parts:
            _check_size(self.folder / part['file'], part['bytes'])

    def rows(self) -> Iterable[tuple[int, str, int, list[int]]]:
        """For each sample: number of its part, name, label, place.

        Raises InputError for an index that is not what was written: labels would be others.
        """
        for number, part in enumerate(self.parts):
            index = self._index(part)
            for row in zip(index['names'], index['labels'], index['places'], strict=True):
                yield number, *row

    def _index(self, part: dict) -> dict:
        path = index_of(self.folder / part['file'])
        index = read_json(path)
        # Reading the sums of all indices of ImageNet takes a second, the indices themselves four.
        if not (index.get('sha256') == part['sha256'] and is_sound(index, self.options)
                and len(index['names']) == part['samples']):
            raise InputError(f'{str(path)!r} is not what was written: remove {path.stem}.* there '
                             'and run the tool that writes the archive again')
        return index

    def verify(self, progress: Callable[[Iterable, int], Iterable] = lambda items, total: items
               ) -> list[str]:
        """For each part that is not what was written, the name of its payload or its index."""
        return [name for part in progress(self.parts, len(self.parts))
                if (name := self._changed(part))]

    def _changed(self, part: dict) -> str | None:
        payload = self.folder / part['file']
        if file_sum(payload) != part['sha256']:
            return payload.name
        try:
            self._index(part)
        except InputError:
            return index_of(payload).name
        return None


def samples_of(dataset) -> list[Sample]:
    """The pictures of a data set of MMEngine's, with names below the folder they share.

    Raises InputError for a data set whose samples are no files with a class each.
    """
    rows = [dataset.get_data_info(i) for i in range(len(dataset))] \
        if hasattr(dataset, 'get_data_info') else []
    if not rows or not all('img_path' in row and isinstance(row.get('gt_label'), Integral)
                           for row in rows):
        raise InputError(f'{type(dataset).__name__} has no files with one class each, which are '
                         'what can be written here')
    paths = [os.path.abspath(row['img_path']) for row in rows]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Sample(path, Path(path).relative_to(shared).as_posix(), int(row['gt_label']))
            for path, row in zip(paths, rows)]


def _refuse_another(folder: Path, manifest: dict) -> None:
    path = folder / MANIFEST
    if path.is_file():
        found = read_json(path)
        differ = [key for key in manifest if found.get(key) != manifest[key]]
        if differ:
            raise InputError(f'{str(folder)!r} holds another archive (it differs in '
                             f'{", ".join(differ)}); choose another --out')


def _refuse_foreign(folder: Path, kind: Kind, slices: dict[Path, Sequence[Sample]]) -> None:
    known = {MANIFEST, LOCK, *(path.name for part in slices for path in (part, index_of(part)))}
    foreign = sorted(item.name for item in folder.iterdir()
                     if HALF.sub(r'\1', item.name) not in known)
    if foreign:
        raise InputError(f'--out {str(folder)!r} holds {foreign[0]!r}, which is no part of this '
                         'archive; choose another folder')
    for payload, slice_ in slices.items():  # all of them, before the first is written
        our_index(payload, kind.options, slice_)


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f'{str(path)!r}, a part of an archive, cannot be read: '
                         f'{error.strerror}') from error
    if size != expected:
        raise InputError(f'{str(path)!r} has {size:,} bytes and was written with {expected:,}: it '
                         'is torn; remove it and run the tool that writes it again')
