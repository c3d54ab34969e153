"""Everything that is wrong with a data set is found in one scan, and named."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmeffnet.engine.check_data import main


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two classes in two splits, four different pictures each, and nothing wrong."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draw.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(
                    folder / f'{number}.jpg')
    return tmp_path / 'data'


def problems(*flags):
    """Exit code, and the problems as 'kind: path'."""
    code = main(['data', '--workers', '1', *flags])
    report = json.loads(Path('work_dirs/check_data.json').read_text())
    return code, {f'{p["kind"]}: {p["path"]}' for p in report['problems']}


def test_a_clean_data_set_has_none(data, capsys):
    assert problems('--num-classes', '2') == (0, set())
    assert 'train 8, val 8 pictures; 0 problems, 0 remarks' in capsys.readouterr().out


def test_every_kind_of_bad_file_is_named(data):
    cat = data / 'train/cat'
    whole = (cat / '0.jpg').read_bytes()
    (cat / 'torn.jpg').write_bytes(whole[:len(whole) // 2])
    (cat / 'empty.jpg').touch()
    (cat / 'text.jpg').write_text('no picture')
    (cat / 'notes.txt').write_text('left over')
    (cat / '.hidden.jpg').write_bytes(whole)
    Image.new('RGB', (9, 9)).save(cat / 'other.png')
    (cat / 'other.png').rename(cat / 'other.jpg')
    code, found = problems()
    assert code == 1
    assert found == {f'unreadable: data/train/cat/{n}.jpg' for n in ('torn', 'text')} | {
        'empty file: data/train/cat/empty.jpg', 'no picture: data/train/cat/notes.txt',
        'hidden: data/train/cat/.hidden.jpg', 'wrong type: data/train/cat/other.jpg'}


def test_remarks_alone_are_no_failure(data):
    (data / 'train/.ipynb_checkpoints').mkdir()
    assert problems() == (0, {'hidden: data/train/.ipynb_checkpoints'})


def test_classes_are_counted_and_compared(data):
    (data / 'train/bird').mkdir()
    Image.new('RGB', (9, 9)).save(data / 'train/bird/0.png')
    (data / 'val/fish').mkdir()
    code, found = problems('--num-classes', '2')
    assert code == 1
    assert found == {'class missing in a split: bird', 'class count: 3',
                     'empty class: data/val/fish'}


def test_the_same_picture_in_two_places_is_named(data):
    copy = (data / 'train/cat/1.jpg').read_bytes()
    (data / 'val/cat/copy.jpg').write_bytes(copy)
    (data / 'train/dog/copy.jpg').write_bytes(copy)
    (data / 'train/cat/same.jpg').write_bytes(copy)  # within a class: no harm
    assert problems()[1] == {'duplicate across splits: data/val/cat/copy.jpg',
                             'duplicate across classes: data/train/dog/copy.jpg'}


def test_lists_are_checked_line_by_line(data):
    (data / 'meta').mkdir()
    (data / 'meta/train.txt').write_text('cat/0.jpg 0\ndog/0.jpg 1\ncat/gone.jpg 0\n\n'
                                         'dog/1.jpg 7\nnonsense\n')
    (data / 'meta/val.txt').write_text('cat/0.jpg 0\ndog/0.jpg 1\n')
    code, found = problems('--num-classes', '2')
    assert code == 1
    assert found == {'missing: data/train/cat/gone.jpg', 'label: data/meta/train.txt:5',
                     'list: data/meta/train.txt:6', 'class missing in a split: 7'}


def test_large_pictures_are_named_by_the_limit(data):
    code, found = problems('--max-pixels', '599')
    assert code == 1
    assert len(found) == 16
    assert problems('--max-pixels', '600')[0] == 0


def test_several_processes_find_the_same(data):
    for number in range(60):
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(
            data / f'train/cat/more{number}.png')
    (data / 'train/cat/torn.jpg').write_bytes(b'\xff\xd8\xff')
    one, two = problems(), problems('--workers', '2')
    assert one == two == (1, {'unreadable: data/train/cat/torn.jpg'})


@pytest.mark.parametrize(('argv', 'message'), [
    (['gone'], "data folder 'gone' does not exist"), (['.'], 'holds no pictures in classes'),
    (['data', '--workers', '-1'], '--workers -1 must be at least 0'),
    (['data', '--num-classes', '0'], '--num-classes 0 must be at least 1'),
    (['data', '--report', 'data/train/cat/0.jpg/report.json'], 'cannot be written')])
def test_wrong_arguments_are_one_line(argv, message, data, capsys):
    if argv == ['.']:
        data.rename(data.parent.parent / f'{data.parent.name}-elsewhere')
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
