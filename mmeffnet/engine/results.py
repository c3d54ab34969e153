"""The file that tools/test.py writes its results into: whole, or left as it was."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mmengine
from mmengine.dist import master_only
from mmengine.evaluator import DumpResults as MMEngineDumpResults
from mmengine.logging import print_log

from mmeffnet.errors import InputError, RunError
from mmeffnet.files import try_folder, whole

# What each kind of result can be written as; the first kind is the default.
FORMATS = {'pred': ('.pkl', '.pickle'), 'metrics': ('.json', '.yaml', '.yml', '.pkl', '.pickle')}


def check_output(out: str | None, item: str | None) -> None:
    """Refuse a file that the results could not be written to when they are there."""
    if not out:
        if item:
            raise InputError(f'--out-item {item} needs --out FILE')
        return
    item = item or 'pred'
    if Path(out).suffix not in FORMATS[item]:
        raise InputError(f'--out {out!r}: --out-item {item} is written as '
                         f'{", ".join(FORMATS[item])}')
    if not Path(out).parent.is_dir():
        raise InputError(f'--out {out!r}: the folder {str(Path(out).parent)!r} does not exist')
    if Path(out).is_dir():
        raise InputError(f'--out {out!r} is a folder: name a file')
    try:
        try_folder(Path(out).parent)
    except OSError as error:
        raise InputError(f'--out {out!r} cannot be written: {error.strerror}') from error


class DumpResults(MMEngineDumpResults):
    """MMEngine's, which writes in place: a full disk would take the results of before with it."""

    def compute_metrics(self, results: list) -> dict:
        with _result(Path(self.out_file_path)) as part:
            mmengine.dump(results, part, 'pkl')
        print_log(f'Results are in {self.out_file_path}', 'current')
        return {}


@master_only
def write_metrics(metrics: Mapping, path: Path) -> None:
    with _result(path) as part:
        mmengine.dump(_listed(metrics), part, path.suffix[1:])


@contextmanager
def _result(path: Path) -> Iterator[Path]:
    """Like ``files.whole``; RunError says what became of the file that could not be written."""
    try:
        with whole(path) as part:
            yield part
    except OSError as error:
        left = 'the file that was there is as it was' if path.exists() else 'nothing is left of it'
        raise RunError(f'--out {str(path)!r} could not be written: {error.strerror}; {left}. Make '
                       'room, or name another place, and test again') from error


def _listed(metrics):
    """Metrics with tensors and arrays as lists or numbers, which any file takes."""
    if isinstance(metrics, Mapping):
        return {key: _listed(value) for key, value in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [*map(_listed, metrics)]
    return metrics.tolist() if hasattr(metrics, 'tolist') else metrics
