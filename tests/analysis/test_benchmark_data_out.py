"""tools/benchmark_data.py tries its folder before it measures."""
import runpy
import sys

import pytest

from mmeffnet.plugin import MIM


def test_a_folder_that_cannot_be_made_is_refused_first(tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').touch()
    # There are no pictures: whatever is refused later would be they.
    monkeypatch.setattr(sys, 'argv', ['', str(tmp_path), '--out', str(tmp_path / 'file')])
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(MIM / 'tools/benchmark_data.py'), run_name='__main__')
    assert exit_.value.code == 2
    assert 'file: nothing can be written there (' in capsys.readouterr().err
