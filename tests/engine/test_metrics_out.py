"""The file that tools/test.py writes into."""
import errno
import tempfile

import mmengine
import numpy as np
import pytest
import torch
from small_files import small_files

from mmeffnet.engine import results
from mmeffnet.errors import InputError, RunError

METRICS = {'confusion_matrix/result': torch.tensor([[3, 1], [0, 4]]), 'top1': np.float32(87.5),
           'per class': (np.array([75., 100.]), {'loss': torch.tensor(0.25)}), 'name': 'x'}
LISTED = {'confusion_matrix/result': [[3, 1], [0, 4]], 'top1': 87.5,
          'per class': [[75., 100.], {'loss': 0.25}], 'name': 'x'}


@pytest.mark.parametrize('suffix', results.FORMATS['metrics'])
def test_tensors_and_arrays_are_written_as_lists(suffix, tmp_path):
    path = tmp_path / f'metrics{suffix}'
    results.write_metrics(METRICS, path)
    assert mmengine.load(path) == LISTED


def test_metrics_that_no_file_takes_leave_the_old_file(tmp_path):
    path = tmp_path / 'metrics.json'
    results.write_metrics(METRICS, path)
    with pytest.raises(TypeError, match='not JSON serializable|is unsupported for json dump'):
        results.write_metrics(dict(first=1, second=object()), path)
    assert mmengine.load(path) == LISTED
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_of_several_writes(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    results.write_metrics(METRICS, tmp_path / 'metrics.json')
    assert list(tmp_path.iterdir()) == []


PREDICTIONS = [dict(pred_label=torch.tensor([n]), name=f'{n}.png') for n in range(3)]


def test_predictions_are_the_ones_that_were_made(tmp_path):
    path = tmp_path / 'all.pkl'
    metric = results.DumpResults(str(path))
    metric.process(None, PREDICTIONS)
    assert metric.evaluate(3) == {}
    assert mmengine.load(path) == PREDICTIONS


def test_a_place_that_cannot_be_written_is_told_before_the_test(tmp_path, monkeypatch):
    (tmp_path / 'old.pkl').mkdir()
    with pytest.raises(InputError, match="old.pkl' is a folder: name a file"):
        results.check_output(str(tmp_path / 'old.pkl'), 'pred')
    results.check_output(str(tmp_path / 'new.pkl'), 'pred')
    assert [path.name for path in tmp_path.iterdir()] == ['old.pkl']

    def refused(dir):  # noqa: A002
        raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(tempfile, 'TemporaryFile', refused)
    with pytest.raises(InputError, match="new.pkl' cannot be written: Permission denied"):
        results.check_output(str(tmp_path / 'new.pkl'), 'pred')


@pytest.mark.parametrize('before', [True, False])
@pytest.mark.parametrize('write', [
    lambda path: results.DumpResults(str(path)).compute_metrics(['x' * 20_000]),
    lambda path: results.write_metrics(dict(x='x' * 20_000), path)], ids=['pred', 'metrics'])
def test_results_that_find_no_room_leave_the_old_file(write, before, tmp_path):
    path = tmp_path / 'x.pkl'
    if before:
        path.write_text('old')
    left = 'the file that was there is as it was' if before else 'nothing is left of it'
    with small_files(), pytest.raises(
            RunError, match=f"^--out '{path}' could not be written: File too large; {left}. Make "):
        write(path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old'] * before
