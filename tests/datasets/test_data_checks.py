"""What is refused before a training starts is what the data set would read."""
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch import nn

import mmeffnet.datasets  # noqa: F401
from mmeffnet.engine.class_checks import check_same_classes, warn_of_names
from mmeffnet.engine.data_checks import (
    build_problem,
    check_dataset,
    class_folder,
    data_problem,
    list_and_folder,
)
from mmeffnet.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of one picture each, in 'data/train'."""
    monkeypatch.chdir(tmp_path)
    for name in ('cat/0.png', 'dog/0.png'):
        picture(name)
    return Path('data/train')


def picture(name):
    path = Path('data/train', name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)


def built(**options):
    return DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root='data/train', **options))


def check(dataset):
    check_dataset(dataset, nn.Module(), 'train_dataloader')


@pytest.mark.parametrize(('name', 'hidden'), [
    ('cat/.cache/1.png', 'cat/.cache'), ('dog/below/.a/b/1.png', 'dog/below/.a')])
def test_a_hidden_folder_in_a_class_is_refused_where_it_is_read(name, hidden, folder):
    picture(name)
    dataset = built()
    assert len(dataset) == 3
    with pytest.raises(InputError, match='^train_dataloader: 1 of its pictures lie in hidden '
                       f"folders, such as 'data/train/{re.escape(hidden)}', and would be read"):
        check(dataset)
    for same in (built(with_label=False), DATASETS.build(dict(
            type='RepeatDataset', times=2, dataset=dict(
                type='mmpretrain.CustomDataset', data_prefix='data/train/')))):
        with pytest.raises(InputError, match=re.escape(hidden)):
            check(same)


def test_a_hidden_folder_that_is_not_read_is_left_alone(folder):
    for name in ('cat/.hidden.png', 'cat/.git/.hidden.png'):
        picture(name)
    (folder / 'cat/.git/notes.txt').touch()
    assert len(dataset := built()) == 2
    check(dataset)


def test_a_list_may_name_files_in_hidden_folders(folder):
    picture('.old/1.png')
    (folder / 'list.txt').write_text('.old/1.png 0\ncat/0.png 1\n')
    dataset = built(ann_file='list.txt')
    assert '/.old/' in dataset.get_data_info(0)['img_path']
    check(dataset)


def test_data_below_a_hidden_folder_is_read(folder, tmp_path):
    folder.rename('.home')
    (tmp_path / 'x').mkdir()
    for root in ('.home', 'x/../.home//'):
        dataset = DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=root))
        assert '.home/' in dataset.get_data_info(0)['img_path']
        check(dataset)


@pytest.mark.parametrize(('dataset', 'named'), [
    (dict(type='CustomDataset', data_root='data', data_prefix='train'), True),
    (dict(type='CustomDataset', data_prefix=dict(img_path='data/train')), True),
    (dict(type='mmpretrain.ImageNet', data_root='data', split='train'), True),
    (dict(type='CustomDataset', data_root='data/train', ann_file='list.txt'), False),
    (dict(type='CustomDataset', data_root='data/train', with_label=False), False),
    (dict(type='CustomDataset', data_root='data', data_prefix='train/cat'), False),
    (dict(type='CIFAR10', data_root='data/train'), False)])
def test_a_failure_is_blamed_on_hidden_folders_among_the_classes_alone(dataset, named, folder):
    init_default_scope('mmpretrain')
    for path in ('data/.git', 'data/train/.cache', 'data/train/cat/.cache'):
        Path(path).mkdir()
    if 'cat' in str(dataset):
        Path('data/train/cat/.cache').rmdir()
    (folder / 'list.txt').touch()
    problem = data_problem(Config(dict(loader=dict(dataset=dataset))), 'loader')
    assert problem == (
        "folder 'data/train/.cache' would be counted as a class and shift the labels of all "
        'others: delete it or move it away' if named else None)


@pytest.mark.parametrize(('dataset', 'file'), [
    (dict(type='CustomDataset', ann_file='meta/val.txt'), " (ann_file 'data/train/meta/val.txt')"),
    (dict(type='ImageNet', split='val'), '')], ids=['custom', 'split'])
@pytest.mark.parametrize('line', ['', 'dog/0.png', 'dog/0.png x', 'dog/0.png\t1'])
def test_a_line_of_a_list_that_cannot_be_read_is_named(dataset, file, line, folder):
    error, problem = failure(dataset, line, folder)
    assert problem == (
        f"test_dataloader{file}: line 2 of 'data/train/meta/val.txt' is {line!r}, and a file, a "
        'space and the number of a class are due; repair or remove it')
    assert isinstance(error, ValueError)


@pytest.mark.parametrize('line', ['my dog/0.png 1', 'dog\x0c/0.png 1', 'dog/0.png -1',
                                  'dog/0.png +1', 'dog/0.png 1_0'])
@pytest.mark.parametrize('pipeline', [(), [dict(type='Unheard')]], ids=['good', 'a wrong step'])
def test_a_list_that_can_be_read_is_not_blamed(line, pipeline, folder):
    error, problem = failure(dict(type='ImageNet', split='val', pipeline=pipeline), line, folder)
    assert (error is None) == (not pipeline)
    assert 'line 2' not in problem
    assert ('Unheard' in problem) == bool(pipeline)
    # Nor is one without labels for another mistake.
    *_, problem = failure(dict(type='ImageNet', split='val', pipeline=[dict(type='Unheard')]),
                          'dog/0.png', folder, with_label=False)
    assert 'Unheard' in problem


def failure(dataset, line, folder, **options):
    """How a data set with such a line fails, None where it does not, and what is said of it."""
    init_default_scope('mmpretrain')
    for name in ('meta', 'val'):
        (folder / name).mkdir(exist_ok=True)
    (folder / 'meta/val.txt').write_bytes(
        f'cat/0.png 0\r\n{line}\r\ncat/0.png 0\r\n'.encode())
    dataset = dict(dataset, data_root='data/train', **options)
    try:
        DATASETS.build(dict(dataset, type=f'mmpretrain.{dataset["type"]}'))
    except (ValueError, KeyError) as error:
        cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
        return error, build_problem(error, cfg, 'test')
    return None, ''


@pytest.mark.parametrize(('kind', 'named'), [
    ('CUB', None), ('mmpretrain.Flowers102', None), ('CIFAR100', None),
    ('mmpretrain.ImageNet', 'val'), ('ImageNet21k', 'val')])
def test_a_split_is_a_folder_for_imagenet_alone(kind, named, folder):
    dataset = dict(type=kind, data_root='data', split='val')
    problem = data_problem(Config(dict(loader=dict(dataset=dataset))), 'loader')
    assert (problem or '').partition(' exist')[0] == (
        f"loader.dataset.data_prefix: 'data/{named}' does not" if named else '')


@pytest.mark.parametrize(('options', 'missing'), [
    (dict(data_prefix='~/data/train'), ''),
    (dict(data_root='gone', data_prefix='~/data/train', ann_file='~/list.txt'), 'data_root'),
    (dict(data_prefix='~/data/gone'), 'data_prefix'),
    (dict(data_prefix='~/data/train', ann_file='~/gone.txt'), 'ann_file'),
    (dict(data_prefix=dict(img_path='~/data/train')), 'data_prefix.img_path'),
    (dict(data_root='~/data/train'), 'data_root')])
def test_a_home_folder_is_read_where_mmpretrain_reads_it(
        options, missing, folder, tmp_path, monkeypatch):
    """That is in ann_file, and in data_prefix unless it is a dict."""
    monkeypatch.setenv('HOME', str(tmp_path))
    Path('list.txt').write_text('cat/0.png 0\n')
    dataset = dict(type='mmpretrain.CustomDataset', **options)
    problem = data_problem(Config(dict(loader=dict(dataset=dataset))), 'loader')
    assert (problem or '').partition(':')[0] == (missing and f'loader.dataset.{missing}')
    if missing != 'data_root' or '~' in options['data_root']:
        with pytest.raises(FileNotFoundError) if missing else nullcontext():
            DATASETS.build(dataset)
    read = class_folder(dataset) or list_and_folder(dataset)[1]
    if str(read)[0] != '~':
        assert read.parent == tmp_path / 'data'


def test_a_home_folder_is_left_to_those_who_do_not_read_it(folder, tmp_path, monkeypatch):
    """mmdet takes '~' for a name."""
    monkeypatch.setenv('HOME', str(tmp_path))
    Path('ann.json').write_text('{}')
    dataset = dict(type='CocoDataset', ann_file='~/ann.json')
    problem = data_problem(Config(dict(loader=dict(dataset=dataset))), 'loader')
    assert problem.startswith("loader.dataset.ann_file: '~/ann.json' does not exist")


class Named:
    """A data set that says what its labels are called."""

    def __init__(self, classes=None, folders=()):
        self.metainfo = dict(classes=classes) if classes or folders else {}
        self.folder_to_idx = {name: label for label, name in enumerate(folders)}


def joined(*parts):
    return SimpleNamespace(datasets=parts)


CLASSIFIER = SimpleNamespace(head=SimpleNamespace(num_classes=2))
DETECTOR, TWO_STAGES, SEGMENTER, PANOPTIC = (
    SimpleNamespace(**{name: SimpleNamespace(num_classes=2)})
    for name in ('bbox_head', 'roi_head', 'decode_head', 'panoptic_head'))
CAT_DOG, SHOWN = ('cat', 'dog'), ('Katze', 'Hund')


@pytest.mark.parametrize(('train', 'val', 'told'), [
    (Named(folders=CAT_DOG), Named(folders=('Dog', 'cat')), (0, 'Dog', 'cat', 'class folders')),
    (Named(SHOWN, CAT_DOG), Named(SHOWN, CAT_DOG[::-1]), (0, 'dog', 'cat', 'class folders')),
    (Named(CAT_DOG), Named(CAT_DOG[::-1], CAT_DOG[::-1]), (0, 'dog', 'cat', 'metainfo.classes')),
    (SimpleNamespace(dataset=Named(CAT_DOG)), joined(Named(), Named(CAT_DOG[::-1])),
     (0, 'dog', 'cat', 'metainfo.classes'))])
def test_labels_that_mean_different_classes_are_refused(train, val, told):
    label, there, here, way = told
    loaders = dict(train_dataloader=train, val_dataloader=val)
    for model in (CLASSIFIER, DETECTOR, TWO_STAGES, SEGMENTER, PANOPTIC):
        with pytest.raises(InputError, match=(
                f"^val_dataloader.dataset: label {label} is '{there}', and it is '{here}' in "
                f'train_dataloader.dataset, so that they mean different classes: give .*{way}')):
            check_same_classes(loaders, model)
    rpn = type('RPN', (SimpleNamespace, ), {})
    for model in (SimpleNamespace(head=CLASSIFIER.head, image_encoder=None), SimpleNamespace(),
                  SimpleNamespace(bbox_head=None, language_model=None), rpn(bbox_head=None)):
        check_same_classes(loaders, model)


def test_categories_in_another_order_are_to_be_put_right_in_their_file():
    """mmdet numbers by the file, and classes in another order than its categories are refused."""
    loaders = {f'{stage}_dataloader': Named(classes) for stage, classes in (
        ('train', CAT_DOG), ('val', CAT_DOG[::-1]))}
    loaders['val_dataloader'].cat_ids = [2, 1]
    with pytest.raises(InputError, match="give both the same metainfo.classes, and the "
                       "'categories' of their annotation files this order$"):
        check_same_classes(loaders, DETECTOR)


class Mapped(Named):
    """A data set of segmentation."""

    def __init__(self, reduce_zero_label, maps='maps'):
        super().__init__(CAT_DOG)
        self.reduce_zero_label, self.data_prefix = reduce_zero_label, dict(seg_map_path=maps)


@pytest.mark.parametrize(('train', 'val', 'told'), [
    (Mapped(False), Mapped(True), True), (Mapped(True), Mapped(False), True),
    (Mapped(True), Mapped(False, maps=''), False),  # a test set may have none
    (Mapped(True), Mapped(True), False), (Named(CAT_DOG), Mapped(True), False)])
def test_label_0_that_is_left_out_in_one_data_set_is_told(train, val, told, said):
    """Maps may be numbered from 1 in one and from 0 in the other: it is no error."""
    check_same_classes(dict(train_dataloader=train, val_dataloader=val), SEGMENTER)
    assert said == ([
        f'val_dataloader.dataset.reduce_zero_label={val.reduce_zero_label} and '
        f'train_dataloader.dataset has {train.reduce_zero_label}: unless the maps of one are '
        'numbered from 1 and those of the other from 0, their labels mean different classes'
    ] if told else [])


@pytest.mark.parametrize(('train', 'val', 'told'), [
    (Named(SHOWN, CAT_DOG), Named(SHOWN, ('cats', 'dogs')), (0, 'cats', 'cat')),
    (Named(CAT_DOG), Named(('cat', 'bird')), (1, 'bird', 'dog'))])
def test_names_that_may_be_other_spellings_are_told(train, val, told, said):
    check_same_classes(dict(train_dataloader=train, val_dataloader=val), CLASSIFIER)
    assert said == [
        f'val_dataloader.dataset: label {told[0]} is {told[1]!r}, and it is {told[2]!r} in '
        'train_dataloader.dataset: if these are different classes, scores mean nothing']


@pytest.mark.parametrize(('train', 'val'), [
    (Named(folders=CAT_DOG), Named(folders=CAT_DOG)), (Named(CAT_DOG), Named(list(CAT_DOG))),
    (Named(), Named(CAT_DOG)), (Named(SHOWN, CAT_DOG), Named(CAT_DOG, CAT_DOG)),
    (Named(SHOWN), Named(CAT_DOG, CAT_DOG)), (joined(Named(CAT_DOG), Named()), Named(CAT_DOG)),
    (Named(('Taxi', 'dog')), Named(('Taxi', 'Hund'), ('Taxi', 'dog')))])
def test_names_to_show_and_names_that_are_not_known_are_left_alone(train, val, said):
    check_same_classes(dict(train_dataloader=train, val_dataloader=val), CLASSIFIER)
    assert said == []


def test_classes_that_are_the_folders_in_another_order_are_refused(folder):
    model = nn.Module()
    model.head = CLASSIFIER.head
    with pytest.raises(InputError, match="^train_dataloader: label 0 is folder 'cat' and would be "
                       "called 'dog': folders are numbered in the order of their names, whatever"):
        check_dataset(built(classes=CAT_DOG[::-1]), model, 'train_dataloader')
    for classes in (None, CAT_DOG, SHOWN, ('dog', 'bird')):
        check_dataset(built(classes=classes), model, 'train_dataloader')


@pytest.mark.parametrize('model', [CLASSIFIER, DETECTOR, SEGMENTER])
@pytest.mark.parametrize(('dataset', 'trained', 'told'), [
    (Named(CAT_DOG), ('cat', 'bird'), (1, 'dog', 'bird')),
    (Named(SHOWN, CAT_DOG), CAT_DOG[::-1], (0, 'cat', 'dog')),
    (joined(*2 * [Named(CAT_DOG)]), SHOWN, (0, 'cat', 'Katze')),
    (Named(SHOWN, CAT_DOG), CAT_DOG, None), (Named(SHOWN, CAT_DOG), SHOWN, None),
    (Named(), CAT_DOG, None), (Named(CAT_DOG), (), None)])
def test_names_other_than_those_of_the_weights_are_told_once(dataset, trained, told, model, said):
    warn_of_names(dataset, 'test_dataloader', SimpleNamespace(), trained, 'a.pth')
    assert said == []
    warn_of_names(dataset, 'test_dataloader', model, trained, 'a.pth')
    assert said == ([] if told is None else [
        f"test_dataloader.dataset: label {told[0]} is {told[1]!r}, and in 'a.pth' it is "
        f'{told[2]!r}: if these are different classes, scores mean nothing'])
