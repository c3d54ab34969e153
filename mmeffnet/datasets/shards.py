"""Pictures as they are, in tar files: shards that the library webdataset reads too."""
from __future__ import annotations

import os
import re
import tarfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from mmengine.fileio import BaseStorageBackend, register_backend
from mmpretrain.datasets import BaseDataset

from mmeffnet.datasets.archive import Archive, Kind, Sample
from mmeffnet.datasets.tally import Tally, starting_a_process
from mmeffnet.errors import InputError, RunError
from mmeffnet.registry import DATASETS

KIND = 'shards'
# shard://FILE.tar?OFFSET+BYTES#NAME; a name may hold anything, even what looks like its address.
ADDRESS = re.compile(r'shard://(.+?\.tar)\?(\d+)\+(\d+)#', re.DOTALL)
RETRIES, WAIT = 3, 0.5  # times that a read is tried again, and seconds before the first of them
SLOW = 10.              # seconds that a read may take before it is told
OPEN_FILES = 64

# Of this process and its workers; made with the first data set of shards.
_faults: Tally | None = None


def sharding() -> Kind:
    """Payloads of tar files: for sample N '000N.jpg', or what its file is, and '000N.cls'.

    Raises InputError where webdataset is not installed.
    """
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise InputError("writing shards needs webdataset, which is not installed. "
                         "Run: pip install 'mmeffnet[data]'") from error
    return Kind(KIND, '.tar', _write, {})


def _write(path: Path, samples: Sequence[Sample]) -> list[list[int]]:
    from webdataset import TarWriter
    # Nothing of this machine and of today goes in, so that equal pictures give equal shards.
    with path.open('wb') as file, TarWriter(file, user='', group='', mtime=0, encoder=False) as tar:
        for number, sample in enumerate(samples):
            try:
                content = Path(sample.path).read_bytes()
            except OSError as error:
                raise RunError(f'{sample.path!r} cannot be read: {error.strerror}; once it can, '
                               'the same command goes on') from error
            tar.write({'__key__': f'{number:06d}', _suffix(sample.name): content,
                       'cls': str(sample.label).encode()})
    with tarfile.open(path) as tar:
        return [[member.offset_data, member.size] for member in tar
                if not member.name.endswith('.cls')]


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower().lstrip('.')
    return {'jpeg': 'jpg', '': 'jpg', 'cls': 'jpg'}.get(suffix, suffix)


@DATASETS.register_module()
class ShardedImages(BaseDataset):
    """Pictures in the tar files that tools/make_shards.py has written.

    Each has an ``img_path`` that names its place in a shard; whatever reads files through MMEngine
    reads it, such as ``LoadImageFromFile``, so that pipelines are those of a folder. Samples are
    known by number: epochs are exact, and MMEngine's samplers shuffle, resume and split them
    among processes. On storage that is slow at random places use ``mmeffnet.ShardSampler``.

    Args:
        data_root (str): Folder of the archive.
        pipeline (Sequence): Transforms. Defaults to none.
        **kwargs: As in mmengine: ``test_mode``, ``indices``, ``metainfo``.

    Raises InputError for a folder that is no such archive, or of which a shard is missing or torn.
    """

    def __init__(self, data_root: str, pipeline: Iterable = (), **kwargs):
        self._archive, self.faults = Archive(data_root, KIND), _the_faults()
        metainfo = dict(kwargs.pop('metainfo', None) or {})
        if self._archive.classes:
            metainfo.setdefault('classes', self._archive.classes)
        super().__init__(ann_file='', metainfo=metainfo or None, data_root=data_root,
                         pipeline=pipeline, **kwargs)

    @property
    def shard_sizes(self) -> list[int]:
        """Samples in each shard, in the order of the samples."""
        return [part['samples'] for part in self._archive.parts]

    def load_data_list(self) -> list[dict]:
        files = [self._archive.folder / part['file'] for part in self._archive.parts]
        return [dict(img_path=f'shard://{files[part]}?{place[0]}+{place[1]}#{name}',
                     gt_label=label) for part, name, label, place in self._archive.rows()]

    def __getstate__(self) -> dict:
        # Reads are counted by process, so that elsewhere others are counted.
        return {key: value for key, value in self.__dict__.items()
                if key != 'faults' or starting_a_process()}

    def __setstate__(self, state: dict) -> None:
        global _faults  # noqa: PLW0603
        self.__dict__.update(state)
        if 'faults' in state:  # in a worker that is spawned
            _faults = self.faults
        self.faults = _the_faults()

    def extra_repr(self) -> list[str]:
        return [f'Archive: \t{self._archive.folder}, {len(self._archive.parts)} shards']


def _the_faults() -> Tally:
    global _faults  # noqa: PLW0603
    _faults = _faults or Tally()
    return _faults


class ShardBackend(BaseStorageBackend):
    """What MMEngine reads addresses 'shard://...' with: a range of a file, tried again if needed.

    A read that fails, or ends early, is tried again ``RETRIES`` times with the file opened anew;
    that and a read that takes ``SLOW`` seconds are counted and named in the log.
    """

    def get(self, filepath: str | Path) -> bytes:
        """The bytes of a picture. Raises RunError that names the shard."""
        found = ADDRESS.match(str(filepath))
        if not found:
            raise InputError(f"{str(filepath)!r} is no address of a picture in a shard; they are "
                             "'shard://FILE.tar?OFFSET+BYTES#NAME'")
        path, offset, size = found[1], int(found[2]), int(found[3])
        began = time.monotonic()
        for attempt in range(RETRIES + 1):
            try:
                content = _read(path, offset, size)
            except OSError as error:
                text = error.strerror or str(error)
                if attempt == RETRIES:
                    raise RunError(f'shard {path!r} cannot be read after {RETRIES + 1} tries: '
                                   f'{text}') from error
                _told(f'shard {path!r}: {text}; tried again')
                time.sleep(WAIT * 2 ** attempt)
            else:
                if (seconds := time.monotonic() - began) > SLOW:
                    _told(f'shard {path!r}: reading {size:,} bytes took {seconds:.0f} s')
                return content
        raise AssertionError('the last attempt returns or raises')

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        return self.get(filepath).decode(encoding)


def _told(line: str) -> None:
    if _faults is not None:
        _faults.add(line)


_files: OrderedDict[str, int] = OrderedDict()


def _read(path: str, offset: int, size: int) -> bytes:
    """A range of a file. Raises OSError, and has then closed it."""
    if path not in _files:
        _files[path] = os.open(path, os.O_RDONLY)
        if len(_files) > OPEN_FILES:
            os.close(_files.popitem(last=False)[1])
    _files.move_to_end(path)
    try:
        # Not seek and read: workers that are forked share the place in an open file.
        content = os.pread(_files[path], size, offset)
        if len(content) < size:
            raise OSError(f'it ends at byte {offset + len(content):,}, within a picture')
    except OSError:
        os.close(_files.pop(path))
        raise
    return content


register_backend(KIND, ShardBackend, prefixes='shard')
