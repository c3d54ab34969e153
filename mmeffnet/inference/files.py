"""Which pictures are meant, and where results go: nothing is lost and nothing overwritten."""
from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmeffnet.errors import InputError
from mmeffnet.inference.images import ADDRESS, SUFFIXES, own_limit

ANNOTATED = 'annotated'  # the folder of pictures, beside the tables of a run
# Of Unicode's categories: control characters, and what ends a line or a paragraph.
CONTROLS = 'Cc', 'Zl', 'Zp'
MARK = 'mmeffnet predict'  # what all that a run has written begins to say of itself with


@dataclass(frozen=True)
class Found:
    """The pictures to read, each with its place below the folder that was named.

    left_alone: how many files of the folders have no suffix of a picture. mark: what the
    files of this run say of themselves: only those of the same inputs are replaced.
    """
    pictures: tuple[tuple[Path, Path], ...]
    left_alone: int
    mark: str


def mark_for(tool: str, inputs: Iterable[str | Path]) -> str:
    """'TOOL HASH', the same for the same files and folders, in whatever order and spelling."""
    # A hash, since pictures are passed on, and nobody has to know the folders of others.
    paths = sorted({os.fsencode(os.path.realpath(path)) for path in inputs})
    return f'{tool} {hashlib.sha256(bytes(1).join(paths)).hexdigest()[:16]}'


def collect(inputs: Sequence[str | Path], out: Path) -> Found:
    """The files named, and the pictures below the folders named, each once.

    Below a folder hidden files, files without a picture's suffix, and the annotated pictures
    of this run and of others are left alone; those of others are read where their folder is
    named itself. Raises InputError for a path that does not exist, and where no picture is
    found.
    """
    mark, own = mark_for(MARK, inputs), Path(out, ANNOTATED).resolve()
    found: dict[Path, Path] = {}  # the absolute path decides what is the same picture
    pictures, left_alone, annotated = [], 0, 0
    for one, given in zip(inputs, map(Path, inputs)):
        if not given.exists():
            if '://' in str(one):
                raise InputError(f'{printable(one)}: {ADDRESS}')
            raise InputError(f'{printable(given)}: there is no such file or folder')
        if not given.is_dir():
            candidates = [(given, Path(given.name))]
        else:
            below = list(files_below(given))
            named = [path for path in below if path.suffix.lower() in SUFFIXES]
            left_alone += len(below) - len(named)
            candidates = [(path, path.relative_to(given)) for path in named
                          if not _is_annotated(path, given, own, mark)]
            annotated += len(named) - len(candidates)
        for path, place in candidates:
            if found.setdefault(path.absolute(), place) is place:
                pictures.append((path, place))
    if not pictures:
        why = (f'{annotated} of earlier runs are left alone' if annotated else
               f'pictures end in {", ".join(sorted(SUFFIXES))}')
        raise InputError(f'no picture in {", ".join(map(printable, inputs))} ({why})')
    return Found(tuple(pictures), left_alone, mark)


def files_below(folder: Path) -> Iterator[Path]:
    """Files in order of their names, links followed, each folder entered once."""
    entered = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        here = Path(root).resolve()
        if here in entered:
            folders.clear()
            continue
        entered.add(here)
        yield from (Path(root, name) for name in sorted(files) if not name.startswith('.'))


def _is_annotated(path: Path, folder: Path, own: Path, mark: str) -> bool:
    """Whether a picture below ``folder`` is one that this tool has written there.

    own, mark: the folder that this run writes pictures to, and what it writes in them.
    """
    found_on_the_way = ANNOTATED in path.relative_to(folder).parts[:-1]
    here = path.parent.resolve()
    if not found_on_the_way and own not in (here, *here.parents):
        return False
    says = mark_of(path) or ''
    return says == mark or found_on_the_way and says.startswith(MARK)


class Places:
    """Gives each picture a file of its own below one folder.

    kept: the pictures that are read, which are no place for any. mark: what the files to come
    will say of themselves; a file that is there and says something else is left alone.
    """

    def __init__(self, out: Path, suffix: str, kept: Iterable[Path] = (), mark: str = ''):
        self.out, self.suffix, self.mark = out, suffix, mark
        # A link is kept, and what it leads to.
        self.taken = {_spot(path) for one in kept for path in (one, Path(os.path.realpath(one)))}

    def place(self, below: Path) -> Path:
        """Where the picture of ``below`` goes: 'a/cat.png' to 'OUT/a/cat.jpg', or cat-2.jpg."""
        number = 1
        while True:
            ending = f'-{number}' if number > 1 else ''
            path = self.out / below.parent / f'{below.stem}{ending}{self.suffix}'
            if _spot(path) not in self.taken and (
                    not os.path.lexists(path) or mark_of(path) == self.mark):
                self.taken.add(_spot(path))
                return path
            number += 1


def mark_of(path: Path) -> str | None:
    """The comment in a JPEG or PNG file, None where there is none or the file is another."""
    try:
        with own_limit(), Image.open(path, formats=['JPEG', 'PNG']) as image:
            comment = image.info.get('comment', image.info.get('Comment'))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return comment.decode('utf-8', 'replace') if isinstance(comment, bytes) else comment


def _spot(path: Path) -> str:
    """Equal for paths that are one file: some file systems do not tell capitals apart."""
    return os.path.join(os.path.realpath(path.parent), path.name).casefold()


def as_text(path) -> str:
    """A path as it is, but for bytes that are no UTF-8, which no file of text takes."""
    return os.fsencode(path).decode('utf-8', 'replace')


def printable(path) -> str:
    """A path for a terminal, in one line: control characters are replaced."""
    return ''.join('?' if unicodedata.category(c) in CONTROLS else c for c in as_text(path))
