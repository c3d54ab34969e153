"""Looking through a folder of pictures for what would stop or spoil a training."""
from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import cv2

from mmeffnet.datasets.file_check import check_file
from mmeffnet.datasets.sources import SPLITS, Problem, Source, sources_of
from mmeffnet.errors import InputError, RunError
from mmeffnet.inference.images import SUFFIXES

# What mmpretrain's CustomDataset takes from folders, unless its ``extensions`` say otherwise; a
# list may name files of any suffix.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
MARK = '\ufeff'  # of byte order, which some editors write ahead of a text


@dataclass(frozen=True)
class Sample:
    """A file of a split with its class: the name of its folder, or the number in its list."""
    split: str
    path: Path
    label: str | int


def scan(root: Path, *, num_classes: int | None = None, workers: int = 0,
         max_pixels: int = 100_000_000, extensions: Mapping[str, Iterable[str]] | None = None,
         named: Iterable[Source] | None = None,
         progress: Callable[[Iterable, int], Iterable] = lambda items, total: items
         ) -> tuple[list[Problem], dict[str, int]]:
    """Every problem of a data set, and how many files each split has.

    root: 'CLASS/*' or '{train,val,test}/CLASS/*'; a list 'meta/SPLIT.txt', whose lines hold a file
    below the split's folder and a label, goes before folders, and 'SPLIT.txt' after them.
    num_classes: what the config says. workers: processes; 0 takes all cores. extensions: how the
    names of files that a run reads end, by split, '' being the data without any; ``EXTENSIONS``
    for others. named: what a config says of splits, which goes before what root suggests; None
    where there is no config. progress: wraps the results as they come.
    Raises InputError where the folder does not exist or holds no picture, RunError where a worker
    is ended from outside.
    """
    if not root.is_dir():
        raise InputError(f'data folder {str(root)!r} does not exist')
    problems: list[Problem] = []
    samples: list[Sample] = []
    sources = sources_of(root, named, problems)
    endings = {source.split: tuple(map(str.lower, (extensions or {}).get(
        source.split, EXTENSIONS))) for source in sources}
    for source in sources:
        found = list(_samples(source, num_classes, endings[source.split], problems))
        if not found:
            problems += _empty(source, endings[source.split])
        samples += found
    if not samples and not any(problem.kind == 'list' for problem in problems):
        raise InputError(f'{str(root)!r} holds no pictures in classes: expected are CLASS/*, or '
                         f'{", ".join(f"{s}/CLASS/*" for s in SPLITS)}, of files that end in '
                         f'{" ".join(dict.fromkeys(chain(*endings.values())))}, or lists '
                         'meta/{train,val}.txt of lines "file label"')
    digests: dict[str, list[Sample]] = defaultdict(list)
    for sample, (found, digest) in zip(samples, progress(
            _checked(samples, workers, max_pixels), len(samples))):
        problems += found
        if digest:
            digests[digest].append(sample)
    problems += [*_duplicates(digests), *_classes(samples, num_classes)]
    counts = {split or str(root): sum(s.split == split for s in samples) for split in endings}
    return problems, counts


def _checked(samples, workers: int, max_pixels: int) -> Iterator:
    check = partial(check_file, max_pixels=max_pixels)
    paths = [sample.path for sample in samples]
    workers = min(workers or os.cpu_count() or 1, len(paths) // 32)  # with work for each
    if workers < 2:
        yield from map(check, paths)
        return
    # OpenCV's own threads would compete with the processes.
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(0, )) as pool:
        try:
            yield from pool.map(check, paths, chunksize=16)
        except BrokenProcessPool as error:
            raise RunError(f'one of {workers} workers was ended from outside, such as for want of '
                           'memory: give fewer by --workers') from error


def _is_read(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a run takes a file out of a folder, by its name."""
    return name.lower().endswith(endings) and not name.startswith('.')


def _empty(source: Source, endings: tuple[str, ...]) -> Iterator[Problem]:
    """What is wrong with a split in which nothing was found."""
    if not source.listed and not source.folder.is_dir():
        return  # told as missing
    # mmpretrain's ImageNet takes test/ as pictures without classes.
    if source.split == 'test' and source.folder.is_dir() and any(
            _is_read(path.name, endings) for path in source.folder.iterdir()):
        return
    way = (f'{str(source.listed)!r} needs lines "file label"' if source.listed else
           f'it needs class folders, or a list meta/{source.split}.txt of lines "file label"')
    yield Problem('empty split', str(source.folder), f'a run would find no picture: {way}')


def _samples(source: Source, num_classes, endings, problems) -> Iterator[Sample]:
    split, folder, listed = source
    if listed:
        yield from _listed(listed, split, folder, num_classes, problems)
        return
    if not folder.is_dir():
        problems.append(Problem('missing', str(folder), 'the config names it, and it is no folder'))
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith('.'):
            problems.append(_hidden(entry, 'would be counted as a class and shift the labels of '
                                    'all others'))
        elif entry.is_dir():
            yield from _in_class(entry, split, endings, problems)
        elif not split and entry.suffix == '.txt':
            continue
        else:
            problems.append(Problem('no picture', str(entry), 'a file beside the classes'))


def _in_class(folder: Path, split: str, endings, problems) -> Iterator[Sample]:
    count = 0
    for base, folders, files in os.walk(folder, followlinks=True):
        hidden = [name for name in (*folders, *files) if name.startswith('.')]
        problems += [_hidden(Path(base, name), _harm(Path(base, name), endings))
                     for name in hidden]
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(set(files) - set(hidden)):
            path = Path(base, name)
            if _is_read(name, endings):
                count += 1
                yield Sample(split, path, folder.name)
            elif path.suffix.lower() in SUFFIXES:
                problems.append(Problem(
                    'not read', str(path), f'a run reads files that end in {" ".join(endings)}: '
                    "convert the picture, name it in a list, or set the data set's extensions and "
                    'give its config by --config'))
            else:
                problems.append(Problem('no picture', str(path), 'its name ends like no picture'))
    if not count:
        problems.append(Problem('empty class', str(folder), 'it holds no picture'))


def _harm(folder: Path, endings: tuple[str, ...]) -> str:
    """What a run would do with a hidden folder in a class; empty for nothing."""
    names = chain(*(files for _, _, files in os.walk(folder, followlinks=True)))
    return 'a run would train on the pictures in it' if any(
        _is_read(name, endings) for name in names) else ''


def _hidden(path: Path, harm: str) -> Problem:
    """A run passes over hidden files, and not over hidden folders."""
    if harm and path.is_dir():
        return Problem('hidden folder', str(path), f'{harm}: delete it or move it away')
    return Problem('hidden', str(path), 'left alone')


def _listed(path: Path, split: str, folder: Path, num_classes, problems) -> Iterator[Sample]:
    """The samples of a list; a line is a file and a label, from 0."""
    try:
        text = path.read_text(encoding='utf-8')
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        problems.append(Problem('list', str(path), 'the config names it, and it is no file'))
        return
    except UnicodeDecodeError as error:
        raise InputError(f'list {str(path)!r} is not UTF-8 at byte {error.start}: save it in '
                         'UTF-8') from error
    if text.startswith(MARK):
        problems.append(Problem('list', str(path), 'it begins with a byte order mark, which a run '
                                'takes for part of the first name: save it without'))
    for number, line in enumerate(text.removeprefix(MARK).splitlines(), start=1):
        name, _, label = line.strip().rpartition(' ')
        where = f'{path}:{number}'
        if not name or not re.fullmatch(r'-?\d+', label):
            problems.append(Problem('list', where, f'{line!r} is no file and label with '
                                    'a space between'))
            continue
        most = f' to {num_classes - 1}' if num_classes else ''
        if int(label) < 0 or num_classes and int(label) >= num_classes:
            problems.append(Problem('label', where, f'label {label} of {name}: labels go from '
                                    f'0{most}'))
        yield Sample(split, folder / name, int(label))


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
    """Names of folders are compared among themselves, and so are numbers of lists."""
    for kind, harm in ((str, ', and its folders would be numbered otherwise'), (int, '')):
        by_split: dict[str, set] = defaultdict(set)
        for sample in samples:
            if isinstance(sample.label, kind):
                by_split[sample.split].add(sample.label)
        every = set().union(*by_split.values())
        for split, labels in by_split.items():
            for label in sorted(every - labels):
                yield Problem('class missing in a split', str(label),
                              f'{split or "the data"} has no picture of it{harm}')
        # Of the labels of lists some may have no picture.
        if num_classes and kind is str and by_split and len(every) != num_classes:
            yield Problem('class count', str(len(every)), f'num_classes is {num_classes}')
