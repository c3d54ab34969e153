"""Looking through a folder of pictures for all that would stop or spoil a training."""
from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from mmeffnet.errors import InputError
from mmeffnet.inference.images import SUFFIXES, ImageError, read_image

SPLITS = ('train', 'val', 'test')
# What a problem is called, and whether it alone makes the scan fail; the others are told only.
KINDS = {
    'unreadable': True, 'empty file': True, 'oversized': True, 'missing': True,
    'empty class': True, 'label': True, 'list': True, 'duplicate across splits': True,
    'duplicate across classes': True, 'class missing in a split': True, 'class count': True,
    'wrong type': False, 'no picture': False, 'hidden': False,
}
# Formats by the suffixes they usually have; a file of another format trains all the same.
USUAL = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.png': 'PNG', '.webp': 'WEBP', '.gif': 'GIF',
         '.bmp': 'BMP', '.tif': 'TIFF', '.tiff': 'TIFF'}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a member of ``KINDS``, the file or folder, and why."""
    kind: str
    path: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """A file of a split with the class that its folder or its list gives it."""
    split: str
    path: Path
    label: str


def scan(root: Path, *, num_classes: int | None = None, workers: int = 0,
         max_pixels: int = 100_000_000,
         progress: Callable[[Iterable, int], Iterable] = lambda items, total: items
         ) -> tuple[list[Problem], dict[str, int]]:
    """Every problem of a data set, and how many files each split has.

    root: 'CLASS/*' or '{train,val,test}/CLASS/*'; lists 'meta/SPLIT.txt' or 'SPLIT.txt', whose
    lines hold a file below the split's folder and a label, go before folders.
    num_classes: what the config says. workers: processes; 0 takes all cores. progress: wraps
    the results as they come.
    Raises InputError where the folder does not exist or holds no picture.
    """
    if not root.is_dir():
        raise InputError(f'data folder {str(root)!r} does not exist')
    problems: list[Problem] = []
    samples = [sample for split, folder in _splits(root)
               for sample in _samples(root, split, folder, num_classes, problems)]
    if not samples:
        raise InputError(f'{str(root)!r} holds no pictures in classes: expected are CLASS/*, or '
                         f'{", ".join(f"{s}/CLASS/*" for s in SPLITS)}')
    digests: dict[str, list[Sample]] = defaultdict(list)
    for sample, (found, digest) in zip(samples, progress(
            _checked(samples, workers, max_pixels), len(samples))):
        problems += found
        if digest:
            digests[digest].append(sample)
    problems += [*_duplicates(digests), *_classes(samples, num_classes)]
    counts = {split or str(root): sum(s.split == split for s in samples)
              for split, _ in _splits(root)}
    return problems, counts


def _checked(samples, workers: int, max_pixels: int) -> Iterator:
    check = partial(check_file, max_pixels=max_pixels)
    paths = [sample.path for sample in samples]
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(paths) < 64:
        yield from map(check, paths)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(check, paths, chunksize=16)


def check_file(path: Path, max_pixels: int) -> tuple[list[Problem], str | None]:
    """The problems of one picture, and the hash of its bytes where it can be read."""
    name = str(path)
    if not path.is_file():
        return [Problem('missing', name, 'the list names a file that does not exist')], None
    size = path.stat().st_size
    if size == 0:
        return [Problem('empty file', name, '0 bytes')], None
    try:
        data = path.read_bytes()
        read_image(path)  # decoded to the end: a torn file is found by nothing less
        with Image.open(path) as image:
            kind, (width, height) = image.format, image.size
    except ImageError as error:
        return [Problem('unreadable', name, error.reason)], None
    except OSError as error:
        return [Problem('unreadable', name, error.strerror or str(error))], None
    found = []
    if width * height > max_pixels:
        found.append(Problem('oversized', name, f'{width} x {height} pixels, more than '
                             f'{max_pixels:,}: each epoch decodes all of them'))
    usual = USUAL.get(path.suffix.lower())
    if usual and kind != usual and (usual, kind) != ('JPEG', 'MPO'):
        found.append(Problem('wrong type', name, f'it is a {kind} file'))
    return found, hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _splits(root: Path) -> list[tuple[str, Path]]:
    found = [(name, root / name) for name in SPLITS if (root / name).is_dir()]
    return found or [('', root)]


def _samples(root: Path, split: str, folder: Path, num_classes, problems) -> Iterator[Sample]:
    lists = [path for path in (root / 'meta' / f'{split}.txt', root / f'{split}.txt')
             if split and path.is_file()]
    if lists:
        yield from _listed(lists[0], split, folder, num_classes, problems)
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith('.'):
            problems.append(Problem('hidden', str(entry), 'left alone, no class'))
        elif entry.is_dir():
            yield from _in_class(entry, split, problems)
        elif not split and entry.suffix == '.txt':
            continue
        else:
            problems.append(Problem('no picture', str(entry), 'a file beside the classes'))


def _in_class(folder: Path, split: str, problems) -> Iterator[Sample]:
    count = 0
    for base, folders, files in os.walk(folder, followlinks=True):
        hidden = [name for name in (*folders, *files) if name.startswith('.')]
        problems += [Problem('hidden', str(Path(base, name)), 'left alone') for name in hidden]
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(set(files) - set(hidden)):
            path = Path(base, name)
            if path.suffix.lower() in SUFFIXES:
                count += 1
                yield Sample(split, path, folder.name)
            else:
                problems.append(Problem('no picture', str(path), 'its name ends like no picture'))
    if not count:
        problems.append(Problem('empty class', str(folder), 'it holds no picture'))


def _listed(path: Path, split: str, folder: Path, num_classes, problems) -> Iterator[Sample]:
    """The samples of a list; a line is a file and a label, from 0."""
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.rstrip().rpartition(' ')
        where = f'{path}:{number}'
        if not name or not label.lstrip('-').isdigit():
            problems.append(Problem('list', where, f'{line!r} is no file and label'))
            continue
        most = f' to {num_classes - 1}' if num_classes else ''
        if int(label) < 0 or num_classes and int(label) >= num_classes:
            problems.append(Problem('label', where, f'label {label} of {name}: labels go from '
                                    f'0{most}'))
        yield Sample(split, folder / name, label)


def _duplicates(digests: dict[str, list[Sample]]) -> Iterator[Problem]:
    for same in digests.values():
        first = same[0]
        for other in same[1:]:
            if other.split != first.split:
                yield Problem('duplicate across splits', str(other.path),
                              f'the same bytes as {first.path}')
            elif other.label != first.label:
                yield Problem('duplicate across classes', str(other.path),
                              f'the same bytes as {first.path}')


def _classes(samples: list[Sample], num_classes: int | None) -> Iterator[Problem]:
    by_split: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        by_split[sample.split].add(sample.label)
    every = set().union(*by_split.values()) if by_split else set()
    for split, labels in by_split.items():
        for label in sorted(every - labels):
            yield Problem('class missing in a split', label, f'{split or "the data"} has no '
                          'picture of it, and its folders would be numbered otherwise')
    # Labels of lists are numbers, and some may have no picture.
    folders = not all(label.lstrip('-').isdigit() for label in every)
    if num_classes and folders and len(every) != num_classes:
        yield Problem('class count', str(len(every)), f'num_classes is {num_classes}')
