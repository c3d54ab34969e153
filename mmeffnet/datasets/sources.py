"""Where the files of a data set's splits are, and what a scan says of them."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ('train', 'val', 'test')
# What a problem is called, and whether it alone makes the scan fail; the others are told only.
KINDS = {
    'unreadable': True, 'empty file': True, 'oversized': True, 'missing': True,
    'empty class': True, 'label': True, 'list': True, 'duplicate across splits': True,
    'duplicate across classes': True, 'class missing in a split': True, 'class count': True,
    'empty split': True, 'hidden folder': True, 'not read': True,
    'wrong type': False, 'no picture': False, 'hidden': False,
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a member of ``KINDS``, the file or folder, and why."""
    kind: str
    path: str
    reason: str


class Source(NamedTuple):
    """Where a run finds the files of a split: below a folder, by a list or None by its folders."""
    split: str
    folder: Path
    listed: Path | None


def sources_of(root: Path, named: Iterable[Source] | None, problems: list[Problem]) -> list[Source]:
    """What is looked through: by a config, and else by the folders and lists that are there.

    named: as for ``scan``; what an earlier split has, too, is left out. problems: lists that are
    not read are put here.
    """
    first: dict[tuple, Source] = {}
    for source in named or ():
        first.setdefault(source[1:], source)
    sources, by_config = [*first.values()], {source.split for source in named or ()}
    sources += [_suggested(root, split) for split in SPLITS
                if (root / split).is_dir() and split not in by_config]
    if named is None:
        problems += _unread(root, sources)
    return sorted(sources, key=lambda source: SPLITS.index(source.split)) or [
        Source('', root, None)]


def _suggested(root: Path, split: str) -> Source:
    """A split without a config: mmpretrain's ImageNet takes meta/SPLIT.txt where there is one."""
    folder, beside = root / split, root / f'{split}.txt'
    by_folder = any(path.is_dir() and path.name[0] != '.' for path in folder.iterdir())
    lists = [root / f'meta/{split}.txt', *([] if by_folder else [beside])]
    return Source(split, folder, next(filter(Path.is_file, lists), None))


def _unread(root: Path, sources: list[Source]) -> Iterator[Problem]:
    """Lists in the root that no source has; no harm where class folders are what is read."""
    by_folder = any(source.listed is None for source in sources)
    for split in SPLITS:
        path, listed = root / f'{split}.txt', any(
            source.listed for source in sources if source.split == split)
        if path.is_file() and not listed:
            yield Problem('no picture' if by_folder else 'list', str(path), 'a list that is not '
                          'read: give the config that names it by --config')
