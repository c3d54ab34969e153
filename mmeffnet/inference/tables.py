"""The tables of a run of predictions: written as it goes, finished together, nobody else's lost."""
from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict
from itertools import count
from pathlib import Path

from mmeffnet.files import file_sum, whole
from mmeffnet.inference.files import as_text

TABLES = ('predictions.csv', 'predictions.json', 'failed.csv')


class Tables:
    """predictions.csv, predictions.json and failed.csv of a run, in ``out``.

    Rows are written as they come, to a file beside: a run that is killed leaves
    '.predictions.csv.PROCESS.part'. The finished files appear together in ``close``: in the
    place of those of the same mark; where a file is another's, all three are
    'predictions-2.csv' and so on. Those of a run that ended early take no place of complete ones.
    mark: of the inputs, see ``mark_for``. about: what predictions.json says besides.
    """
    COLUMNS = ('file', 'rank', 'index', 'name', 'probability')

    def __init__(self, out: Path, mark: str, **about):
        self.out, self.mark, self.about = out, mark, about
        self.images: list[dict] = []
        self.failed: list[dict] = []
        out.mkdir(parents=True, exist_ok=True)
        self.part = out / f'.predictions.csv.{os.getpid()}.part'
        self._file = self.part.open('w', newline='', encoding='utf-8')
        self._rows = csv.writer(self._file)
        self._rows.writerow(self.COLUMNS)

    def add(self, path: Path, predictions, picture: Path | None) -> None:
        file = as_text(path)
        self.images.append(dict(file=file, picture=as_text(picture) if picture else None,
                                predictions=[asdict(p) for p in predictions]))
        for rank, one in enumerate(predictions, start=1):
            self._rows.writerow((file, rank, one.index, one.name, f'{one.probability:.6f}'))
        self._file.flush()

    def fail(self, path: Path, reason: str) -> None:
        self.failed.append(dict(file=as_text(path), reason=reason))

    def close(self, complete: bool = True) -> list[Path]:
        """Finish the files; gives their paths. complete: whether the run came to its end.

        A run that ended before its first picture leaves no files, and what was there as it is.
        """
        self._file.close()
        if not (complete or self.images or self.failed):
            self.part.unlink()
            return []
        paths = next(paths for paths in map(self._paths, count(1))
                     if self._may_be_written(paths, complete))
        self.part.replace(paths[0])
        with whole(paths[2]) as part, part.open('w', newline='', encoding='utf-8') as file:
            rows = csv.writer(file)
            rows.writerows([('file', 'reason'), *(row.values() for row in self.failed)])
        with whole(paths[1]) as part:
            part.write_text(json.dumps(
                dict(mark=self.mark, complete=complete,
                     sha256={TABLES[i]: file_sum(paths[i]) for i in (0, 2)}, **self.about,
                     images=self.images, failed=self.failed), indent=1, ensure_ascii=False),
                encoding='utf-8')
        return paths

    def _paths(self, number: int) -> list[Path]:
        ending = f'-{number}' if number > 1 else ''
        return [self.out / f'{Path(name).stem}{ending}{Path(name).suffix}' for name in TABLES]

    def _may_be_written(self, paths: list[Path], complete: bool) -> bool:
        """Whether nothing is there, or what a run of the same mark has left, and nobody changed.

        What is not complete is written over no complete run's.
        """
        if not any(map(os.path.lexists, paths)):
            return True
        try:
            told = json.loads(paths[1].read_text(encoding='utf-8'))
            # Earlier versions did not say whether a run was complete.
            return told['mark'] == self.mark and (
                complete or not told.get('complete', True)) and all(
                told['sha256'][TABLES[i]] == file_sum(paths[i])
                for i in (0, 2) if os.path.lexists(paths[i]))
        except (OSError, ValueError, KeyError, TypeError):
            return False  # a file of somebody else
