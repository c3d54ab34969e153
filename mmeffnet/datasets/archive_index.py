"""The index of a part of an archive: what was written into its payload, and whether it still is."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmeffnet.errors import InputError, one_line
from mmeffnet.files import file_sum, whole


class Sample(NamedTuple):
    """A picture to be written: where it is read, its name in the archive and its class."""
    path: str
    name: str
    label: int


def index_of(payload: Path) -> Path:
    """Where the index of a part lies."""
    return payload.with_suffix('.json')


def described(payload: Path, options: dict, samples: Sequence[Sample],
              write: Callable[[Path, Sequence[Sample]], list[list[int]]]) -> dict:
    """Write a payload; gives the content of its index."""
    source_bytes = [_bytes(sample.path) for sample in samples]
    places = write(payload, samples)
    return dict(digest=_samples_digest(options, samples), sha256=file_sum(payload),
                bytes=payload.stat().st_size, names=[sample.name for sample in samples],
                labels=[sample.label for sample in samples], places=places,
                places_digest=digest(places), source_bytes=source_bytes)


def our_index(payload: Path, options: dict, samples: Sequence[Sample]) -> dict | None:
    """The index of a part, None where none was written. Raises InputError for others' files."""
    index = index_of(payload)
    if not index.is_file():
        if os.path.lexists(payload):
            raise InputError(
                f'{str(payload)!r} has no index {index.name!r}, so it may be any file: choose '
                'another --out, or remove it if it is of this archive; earlier versions left such '
                'files when they were killed')
        return None
    try:
        found = read_json(index)
    except InputError as error:
        raise InputError(f'{error}; choose another --out, or remove {payload.stem}.* there'
                         ) from error
    if found.get('digest') != _samples_digest(options, samples):
        raise InputError(f'{str(index)!r} belongs to an archive of other pictures or options; '
                         'choose another --out, or remove that folder')
    return found


def is_written(payload: Path, options: dict, samples: Sequence[Sample]) -> bool:
    """Whether a part is there as it would be written. Raises InputError for others' files."""
    index = our_index(payload, options, samples)
    return (index is not None and is_sound(index, options) and not _is_outdated(index, samples)
            and payload.is_file() and file_sum(payload) == index.get('sha256'))


def is_sound(index: dict, options: dict) -> bool:
    """Whether an index names the samples and places that were written.

    Earlier versions have kept no sum of the places.
    """
    try:
        rows = [*zip(index['names'], index['labels'], index['places'], strict=True)]
    except (KeyError, TypeError, ValueError):
        return False
    return (index.get('digest') == digest([options, [row[:2] for row in rows]])
            and index.get('places_digest') in (None, digest(index['places'])))


def _is_outdated(index: dict, samples: Sequence[Sample]) -> bool:
    """Whether a source file has another size than when it was written.

    Nothing is known of files that are gone, nor of parts that earlier versions have written.
    """
    return any(then is not None and _bytes(sample.path) not in (None, then)
               for sample, then in zip(samples, index.get('source_bytes') or ()))


def _bytes(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def digest(content) -> str:
    """The sum of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _samples_digest(options: dict, samples: Sequence[Sample]) -> str:
    return digest([options, [sample[1:] for sample in samples]])


def write_json(path: Path, content: dict) -> None:
    """Write a file of JSON, whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(content))


def read_json(path: Path) -> dict:
    """The object in a file of JSON. Raises InputError for a file that has none."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError('it holds no JSON object')
        return content
    except (OSError, ValueError) as error:
        raise InputError(f'{str(path)!r} cannot be read: {one_line(error)}') from error
