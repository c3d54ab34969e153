"""Files that are written whole or not at all, and their sums."""
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` once the block has ended well.

    After an error, a kill or a loss of power ``path`` is as it was: the old file, or none. The
    part lies beside it as ``.NAME.PROCESS-RANDOM.part``; an error removes it. Threads, and hosts
    that share a folder, where processes may have one number, have parts of their own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}-{uuid4().hex[:8]}.part')
    try:
        yield part
        with part.open('rb') as file:
            os.fsync(file.fileno())  # otherwise the name may reach the disk before the content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def try_folder(folder: Path | str) -> None:
    """Make a folder, and a file in it that is gone again. Raises OSError where that fails."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # under a name that nobody has


def remove_parts(folder: Path | str) -> None:
    """Remove what killed processes left of files in ``folder``."""
    for part in Path(folder).glob('.*.part'):
        part.unlink(missing_ok=True)


def file_sum(path: Path | str, kind: str = 'sha256') -> str:
    """The sum of a file's content, read a part at a time."""
    total = hashlib.new(kind)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
