"""The file that tools/test.py writes metrics into."""
import mmengine
import numpy as np
import pytest
import torch

from mmeffnet.engine import run

METRICS = {'confusion_matrix/result': torch.tensor([[3, 1], [0, 4]]), 'top1': np.float32(87.5),
           'per class': (np.array([75., 100.]), {'loss': torch.tensor(0.25)}), 'name': 'x'}
LISTED = {'confusion_matrix/result': [[3, 1], [0, 4]], 'top1': 87.5,
          'per class': [[75., 100.], {'loss': 0.25}], 'name': 'x'}


@pytest.mark.parametrize('suffix', run.FORMATS['metrics'])
def test_tensors_and_arrays_are_written_as_lists(suffix, tmp_path):
    path = tmp_path / f'metrics{suffix}'
    run._write(METRICS, path)
    assert mmengine.load(path) == LISTED


def test_metrics_that_no_file_takes_leave_the_old_file(tmp_path):
    path = tmp_path / 'metrics.json'
    run._write(METRICS, path)
    with pytest.raises(TypeError, match='not JSON serializable|is unsupported for json dump'):
        run._write(dict(first=1, second=object()), path)
    assert mmengine.load(path) == LISTED
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_of_several_writes(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    run._write(METRICS, tmp_path / 'metrics.json')
    assert list(tmp_path.iterdir()) == []
