"""Everything that is wrong with a data set is found in one scan, and named."""
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset, ImageNet
from PIL import Image

from mmeffnet.datasets import scan
from mmeffnet.datasets.scan import EXTENSIONS
from mmeffnet.engine import check_data
from mmeffnet.engine.check_data import main
from mmeffnet.errors import InputError


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


def problems(*flags, root='data'):
    """Exit code, and the problems as 'kind: path'."""
    code = main([root, '--workers', '1', *flags])
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


def test_pictures_are_known_by_what_is_in_them_and_by_any_spelling_of_a_suffix(data, capsys):
    cat, noise = data / 'train/cat', [Image.effect_noise((9 + i, 9), 90) for i in range(6)]
    (cat / '0.jpg').rename(cat / '0.JPEG')
    noise[0].save(cat / 'of two.jpg', format='MPO', save_all=True, append_images=[noise[1]])
    noise[2].save(cat / 'other.JPG', format='PNG')
    noise[3].save(cat / 'new.WEBP', format='WEBP')
    Path('elsewhere').mkdir()
    noise[4].save('elsewhere/0.png')
    (cat / 'linked').symlink_to(Path('elsewhere').resolve())
    assert problems() == (1, {'wrong type: data/train/cat/other.JPG',
                              'not read: data/train/cat/new.WEBP'})
    assert 'train 11, val 8 pictures; 1 problems, 1 remarks' in capsys.readouterr().out


def test_remarks_alone_are_no_failure(data, capsys):
    for name in ('train', 'train/cat'):
        (data / name / '.DS_Store').touch()
    assert problems() == (0, {f'hidden: data/{n}/.DS_Store' for n in ('train', 'train/cat')})
    for number in range(check_data.FEW + 1):
        (data / f'train/dog/{number}.txt').touch()
    capsys.readouterr()
    assert len(problems()[1]) == check_data.FEW + 3  # in the report
    assert capsys.readouterr().out.count('data/train/dog/') == check_data.FEW


def test_a_text_beside_classes_is_told_within_a_split_alone(data):
    (data / 'train/labels.txt').touch()
    assert problems() == (0, {'no picture: data/train/labels.txt'})
    assert problems(root='data/train') == (0, set())


def test_hidden_folders_are_problems(data):
    """train.py refuses the first, and would train on what is in the second."""
    for name in ('train/.cache', 'train/cat/.ipynb_checkpoints'):
        (data / name).mkdir()
        (data / name / '0.jpg').write_bytes((data / 'train/cat/0.jpg').read_bytes())
    assert problems() == (1, {'hidden folder: data/train/.cache',
                              'hidden folder: data/train/cat/.ipynb_checkpoints'})


def test_a_hidden_folder_without_pictures_is_left_alone(data):
    (data / 'train/cat/.cache/deep').mkdir(parents=True)
    for name in ('notes.txt', 'deep/.hidden.jpg'):
        (data / 'train/cat/.cache' / name).write_bytes(b'x')
    assert problems() == (0, {'hidden: data/train/cat/.cache'})
    Path('elsewhere').mkdir()
    Path('elsewhere/0.jpg').write_bytes(b'x')
    (data / 'train/cat/.cache/deep/link').symlink_to(Path('elsewhere').resolve())
    assert problems() == (1, {'hidden folder: data/train/cat/.cache'})


@pytest.mark.parametrize('content', ['flat', 'nothing'])
def test_a_split_without_samples_is_a_problem(data, content, capsys):
    for folder in ('cat', 'dog'):
        for path in (data / 'val' / folder).iterdir():
            path.rename(data / f'val/{folder}{path.name}') if content == 'flat' else path.unlink()
        (data / 'val' / folder).rmdir()
    code, found = problems()
    assert code == 1
    assert 'empty split: data/val' in found
    assert 'needs class folders, or a list meta/val.txt' in capsys.readouterr().out


def test_pictures_of_a_test_split_need_no_class(data):
    (data / 'test').mkdir()
    Image.new('RGB', (9, 9)).save(data / 'test/0.png')
    assert problems() == (0, {'no picture: data/test/0.png'})
    (data / 'test/0.png').unlink()
    assert problems() == (1, {'empty split: data/test'})


def test_pictures_that_a_run_passes_over_are_problems(data, capsys):
    assert EXTENSIONS == ImageNet.IMG_EXTENSIONS
    names = [f'data/train/cat/new.{suffix}' for suffix in ('webp', 'tiff', 'gif')]
    for name in names:
        Image.new('RGB', (9, 9)).save(name)
    assert problems() == (1, {f'not read: {name}' for name in names})
    assert 'train 8, val 8 pictures' in capsys.readouterr().out


WRAPPED = '''
train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(
    type='CustomDataset', data_root='data', data_prefix='train', extensions=('.WEBP', '.jpg'))))
val_dataloader = dict(dataset=dict(type='mmpretrain.ImageNet', data_root='data', split='val'))
'''


def test_the_extensions_of_a_config_are_those_that_are_read(data, capsys):
    Path('config.py').write_text(WRAPPED)
    for split in ('train', 'val'):
        for number, suffix in enumerate(('webp', 'png')):
            Image.effect_noise((9 + number, 9), 90).convert('RGB').save(
                f'data/{split}/cat/new.{suffix}')
    assert problems('--config', 'config.py') == (1, {'not read: data/train/cat/new.png',
                                                     'not read: data/val/cat/new.webp'})
    told = capsys.readouterr().out
    assert 'train 9, val 9 pictures' in told
    assert 'a run reads files that end in .webp .jpg: convert the picture' in told
    train = Config.fromfile('config.py').train_dataloader.dataset.dataset
    assert len(CustomDataset(**{key: train[key] for key in train if key != 'type'})) == 9
    # The data set that reads a folder goes before the one that a split's name suggests.
    code = main(['data/val', '--config', 'config.py'])
    assert code == 1
    assert 'not read: 1' in capsys.readouterr().out


def test_an_extension_that_is_no_list_is_refused(data, capsys):
    Path('config.py').write_text(WRAPPED.replace("('.WEBP', '.jpg')", "('.jpg')"))
    with pytest.raises(SystemExit) as exit_:
        main(['data', '--config', 'config.py'])
    assert exit_.value.code == 2
    assert ("train_dataloader.dataset.dataset.extensions='.jpg' must be a list of suffixes, such "
            "as ['.jpg']") in capsys.readouterr().err


def test_pictures_that_opencv_cannot_read_are_problems(data):
    cat, image = data / 'train/cat', Image.open(data / 'train/cat/0.jpg')
    for number, cut in enumerate((12, 20)):
        image.rotate(number).save(cat / f'torn{number}.png')
        content = (cat / f'torn{number}.png').read_bytes()
        (cat / f'torn{number}.png').write_bytes(content[:-cut])
    image.convert('F').save(cat / 'float.tif')
    image.save(cat / 'icon.ico')
    (cat / 'icon.ico').rename(cat / 'icon.png')
    assert problems() == (1, {f'unreadable: data/train/cat/{name}' for name in (
        'torn0.png', 'torn1.png', 'float.tif', 'icon.png')})


def test_pictures_too_large_for_pillow_are_read(data, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert problems() == (0, set())


def test_a_link_that_leads_nowhere_is_named(data, capsys):
    (data / 'train/cat/link.jpg').symlink_to('gone.jpg')
    assert problems() == (1, {'missing: data/train/cat/link.jpg'})
    assert 'link.jpg: a link that leads nowhere' in capsys.readouterr().out


def test_classes_are_counted_and_compared(data):
    (data / 'train/bird').mkdir()
    Image.new('RGB', (9, 9)).save(data / 'train/bird/0.png')
    (data / 'val/fish').mkdir()
    code, found = problems('--num-classes', '2')
    assert code == 1
    assert found == {'class missing in a split: bird', 'class count: 3',
                     'empty class: data/val/fish'}


def test_folders_that_are_called_by_numbers_are_counted(data):
    for split in ('train', 'val'):
        for number, name in enumerate(('cat', 'dog')):
            (data / split / name).rename(data / split / str(number))
    assert problems('--num-classes', '5') == (1, {'class count: 2'})
    (data / 'meta').mkdir()
    (data / 'meta/val.txt').write_text('0/0.jpg 0\n1/0.jpg 4\n')  # of a list some may be missing
    assert problems('--num-classes', '5') == (1, {'class count: 2'})
    assert problems('--num-classes', '2') == (1, {'label: data/meta/val.txt:2'})


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
                     *(f'list: data/meta/train.txt:{line}' for line in (4, 6)),
                     'class missing in a split: 7'}


def test_a_list_may_have_blanks_in_names_and_at_ends(data, capsys):
    (data / 'val/cat/0.jpg').rename(data / 'val/cat/my cat.jpg')
    (data / 'meta').mkdir()
    (data / 'meta/val.txt').write_text('cat/my cat.jpg 0 \ndog/0.jpg 1\ndog/1.jpg -1\n')
    assert problems() == (1, {'label: data/meta/val.txt:3'})
    assert 'val 3 pictures' in capsys.readouterr().out


def test_a_list_of_which_no_line_can_be_read_is_a_problem(data):
    (data / 'meta').mkdir()
    for split in ('train', 'val'):
        (data / f'meta/{split}.txt').write_text('cat/0.jpg\t0\n')
    assert problems() == (1, {'list: data/meta/train.txt:1', 'empty split: data/train',
                              'list: data/meta/val.txt:1', 'empty split: data/val'})


LISTED = """
loader = dict(type='CustomDataset', data_root='data', data_prefix='images')
train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[
    dict(ann_file='train.txt', **loader), dict(loader, data_prefix='more')]))
val_dataloader = dict(dataset=dict(ann_file='val.txt', **loader))
test_dataloader = val_dataloader
"""


def test_lists_in_the_root_are_read_where_a_config_names_them(data, capsys):
    (data / 'train').rename(data / 'images')
    (data / 'val').rename(data / 'more')
    (data / 'train.txt').write_text('cat/0.jpg 0\ndog/gone.jpg 1\ndog/0.jpg 7\n')
    (data / 'val.txt').write_text('cat/1.jpg 0\ndog/1.jpg 1\n')
    code, found = problems()
    assert code == 1
    assert {f'list: data/{split}.txt' for split in ('train', 'val')} <= found
    assert 'data/val.txt: a list that is not read: give the config' in capsys.readouterr().out
    Path('config.py').write_text(LISTED)
    assert problems('--config', 'config.py', '--num-classes', '2') == (1, {
        'missing: data/images/dog/gone.jpg', 'label: data/train.txt:3',
        'class missing in a split: 7'})
    assert 'train 11, val 2 pictures' in capsys.readouterr().out
    (data / 'val.txt').unlink()
    assert 'list: data/val.txt' in problems('--config', 'config.py')[1]
    (data / 'val.txt').mkdir()
    assert 'list: data/val.txt' in problems('--config', 'config.py')[1]
    Path('config.py').write_text(LISTED.replace("'more'", "'gone'"))
    assert 'missing: data/gone' in problems('--config', 'config.py')[1]
    Path('config.py').write_text(LISTED.replace("'val.txt'", "'train.txt/val.txt'"))
    assert 'list: data/train.txt/val.txt' in problems('--config', 'config.py')[1]


def test_class_folders_that_a_config_names_are_its_splits(data, capsys):
    (data / 'train').rename(data / 'images')
    (data / 'val').rename(data / 'more')
    Path('config.py').write_text("""
folder = dict(type='CustomDataset', data_root='data')
train_dataloader = dict(dataset=dict(data_prefix='images', extensions=['.jpg', '.webp'], **folder))
val_dataloader = dict(dataset=dict(data_prefix='more', **folder))
""")
    Image.new('RGB', (9, 9)).save(data / 'images/cat/new.webp')
    flags = ('--config', 'config.py', '--num-classes', '2')
    assert problems(*flags) == (0, set())
    assert 'train 9, val 8 pictures' in capsys.readouterr().out
    (data / 'more/dog/copy.jpg').write_bytes((data / 'images/cat/0.jpg').read_bytes())
    assert problems(*flags) == (1, {'duplicate across splits: data/more/dog/copy.jpg'})
    # The folder that is looked through is no split of itself, nor is what lies outside of it.
    capsys.readouterr()
    assert problems(*flags, root='data/images') == (0, set())
    assert capsys.readouterr().out.startswith('data/images 9 pictures')
    # One that the config alone knows is told once where it is not there; val alone is sound.
    (data / 'images').rename('elsewhere')
    assert problems(*flags) == (1, {'missing: data/images'})
    Path('config.py').write_text(Path('config.py').read_text().replace("'images'", "'train'"))
    (data / 'more').rename(data / 'val')
    Path('config.py').write_text(Path('config.py').read_text().replace("'more'", "'val'"))
    assert problems(*flags) == (0, set())


def test_a_list_beside_class_folders_is_not_read(data):
    (data / 'train.txt').write_text('cat/0\ncat/1\n')
    assert problems() == (0, {'no picture: data/train.txt'})
    Path('config.py').write_text(WRAPPED)
    assert problems('--config', 'config.py') == (0, set())
    Path('config.py').write_text(WRAPPED.replace("'train',", "'train', ann_file='train.txt',"))
    assert problems('--config', 'config.py') == (
        1, {'empty split: data/train', *(f'list: data/train.txt:{line}' for line in (1, 2))})
    for path in [*(data / 'train').glob('*/*.jpg')]:  # without folders the list alone has classes
        path.rename(data / f'train/{path.parent.name}{path.name}')
    for name in ('cat', 'dog'):
        (data / 'train' / name).rmdir()
    (data / 'train/.thumbnails').mkdir()
    (data / 'train.txt').write_text('cat0.jpg 0\ndog1.jpg 1\n')
    assert problems() == (0, set())


def test_lists_are_utf_8_without_a_mark(data, capsys):
    (data / 'meta').mkdir()
    (data / 'meta/val.txt').write_text('cat/0.jpg 0\ndog/0.jpg 1\n', encoding='utf-8-sig')
    assert problems() == (1, {'list: data/meta/val.txt'})
    assert 'begins with a byte order mark' in capsys.readouterr().out
    (data / 'meta/val.txt').write_text('ca\xf1on/0.jpg 0\n', encoding='latin-1')
    with pytest.raises(SystemExit):
        main(['data'])
    assert "list 'data/meta/val.txt' is not UTF-8 at byte 2: save it" in capsys.readouterr().err


def test_names_in_brackets_are_printed_as_they_are(data, capsys):
    (data / 'train').rename('[old]')
    assert main(['[old]', '--report', 'work_dirs/[new] :cat:.json']) == 0
    assert capsys.readouterr().out == (
        '[old] 8 pictures; 0 problems, 0 remarks; work_dirs/[new] :cat:.json\n')


def test_names_that_cannot_be_printed_are_escaped(data, monkeypatch):
    (data / 'train/cat/ca\xf1on.jpg').touch()
    screen = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', screen)
    assert problems() == (1, {'empty file: data/train/cat/ca\xf1on.jpg'})
    screen.flush()
    assert rb'data/train/cat/ca\xf1on.jpg: 0 bytes' in screen.buffer.getvalue()


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


def test_a_worker_that_is_ended_is_one_line(data, capsys, monkeypatch):
    class Ended(ThreadPoolExecutor):
        def __init__(self, workers, **_):
            super().__init__(workers)

        def map(self, *_, **__):
            raise BrokenProcessPool
    monkeypatch.setattr(scan, 'ProcessPoolExecutor', Ended)
    for number in range(60):
        (data / f'train/cat/more{number}.png').touch()
    with pytest.raises(SystemExit) as exit_:
        main(['data', '--workers', '2'])
    assert exit_.value.code == 1
    assert 'one of 2 workers was ended from outside' in capsys.readouterr().err


@pytest.mark.parametrize(('argv', 'message'), [
    (['gone'], "data folder 'gone' does not exist"), (['.'], 'holds no pictures in classes'),
    (['data', '--workers', '-1'], '--workers -1 must be at least 0'),
    (['data', '--max-pixels', '0'], '--max-pixels 0 must be at least 1'),
    (['data', '--num-classes', '0'], '--num-classes 0 must be at least 1'),
    (['data', '--report', 'data/train/cat/0.jpg/report.json'], 'cannot be written'),
    (['data', '--report', 'data'], "--report 'data' is a folder: name a file")])
def test_wrong_arguments_are_one_line(argv, message, data, capsys, monkeypatch):
    if '--report' in argv:  # found before the scan
        monkeypatch.setattr(check_data, 'scan', None)
    if argv == ['.']:
        data.rename(data.parent.parent / f'{data.parent.name}-elsewhere')
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_problems_are_told_where_the_report_fails(data, capsys, monkeypatch):
    def full(path, *_):
        raise InputError(f'--report {str(path)!r} cannot be written: no space')
    (data / 'train/cat/empty.jpg').touch()
    monkeypatch.setattr(check_data, 'write_report', full)
    with pytest.raises(SystemExit):
        main(['data', '--workers', '1'])
    told = capsys.readouterr()
    assert 'data/train/cat/empty.jpg: 0 bytes' in told.out
    assert 'no space' in told.err
