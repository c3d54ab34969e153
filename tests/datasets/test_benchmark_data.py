"""The benchmark of the data path takes what each of its contenders reads."""
import pytest
from conftest import run_tool
from picture_files import written

pytest.importorskip('timm')
pytest.importorskip('webdataset')


@pytest.mark.slow
def test_other_pictures_are_left_out_or_named(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for name in ('a.jpg', 'b.png', 'c.bmp', 'd.tif'):
        written(folder / name)
    flags = '--rounds', '2', '--size', '32', '--short-side', '40'
    result = run_tool('benchmark_data.py', folder, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert '2 pictures, 32 px' in result.stdout
    (folder / 'c.bmp').rename(folder / 'c.png')
    result = run_tool('benchmark_data.py', folder, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert "c.png' is nothing that torchvision reads: take it out" in result.stderr
    assert 'Traceback' not in result.stderr
