"""Maps that do not fit their picture or their classes are named, wherever they are read."""
from types import SimpleNamespace

import numpy as np
import pytest
from downstream import need
from PIL import Image
from torch import nn

need('mmseg', 'mmcv._ext')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import EpochBasedTrainLoop  # noqa: E402
from mmseg.datasets import BaseSegDataset  # noqa: E402

from mmeffnet.engine.data_checks import build_problem, check_dataset  # noqa: E402
from mmeffnet.engine.samples import SampleError, SamplesHook  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402

CLASSES = ('background', 'box', 'corner')
SIZE = (24, 32)  # height and width
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
TRAIN = [*LOAD, dict(type='RandomFlip', prob=1.), dict(type='RandomCrop', crop_size=(16, 16)),
         dict(type='PackSegInputs')]
# As in mmseg the map is loaded after the picture has another size.
TEST = [LOAD[0], dict(type='Resize', scale=(64, 48), keep_ratio=True), LOAD[1],
        dict(type='PackSegInputs')]
TTA = [LOAD[0], dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale_factor=1.5, keep_ratio=True)],
    [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)], [LOAD[1]],
    [dict(type='PackSegInputs')]])]


@pytest.fixture
def maps(tmp_path):
    """Write two pictures with maps, of which the second is ``changed``: the data set's folder."""
    def write(changed=lambda made: made):
        for kind in ('images', 'maps'):
            (tmp_path / kind).mkdir()
        for i in range(2):
            Image.fromarray(np.full((*SIZE, 3), 50, np.uint8)).save(tmp_path / f'images/{i}.jpg')
            made = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE) % len(CLASSES)
            made[0] = 255
            Image.fromarray(changed(made) if i else made).save(tmp_path / f'maps/{i}.png')
        return tmp_path
    return write


def dataset(folder, pipeline=TRAIN, classes=CLASSES, **options):
    init_default_scope('mmseg')
    return BaseSegDataset(data_root=str(folder), pipeline=pipeline, metainfo=dict(classes=classes),
                          data_prefix=dict(img_path='images', seg_map_path='maps'), **options)


def guarded(data, stage, max_skips=0, ignored=(255, )):
    """The data set as a run reads it in a stage, whose losses or metrics ignore these labels."""
    users = [nn.Module() for _ in ignored]
    for user, number in zip(users, ignored):
        user.ignore_index = number
    loader = SimpleNamespace(dataset=data, batch_sampler=None, sampler=None)
    runner = SimpleNamespace(
        train_loop=object.__new__(EpochBasedTrainLoop), epoch=0, seed=0,
        model=nn.Sequential(*users), **{f'{stage}_dataloader': loader},
        **({} if stage == 'train' else {f'{stage}_evaluator': SimpleNamespace(metrics=users)}))
    getattr(SamplesHook(max_skips), f'before_{stage}_epoch')(runner)
    return data


def label7(made):
    made[:] = 7
    return made


STAGES = [('train', TRAIN), ('val', TEST), ('test', TTA)]


@pytest.mark.filterwarnings('ignore:Please pay attention your ground truth')
@pytest.mark.parametrize(('stage', 'pipeline'), STAGES)
@pytest.mark.parametrize(('change', 'words'), [
    (label7, 'has label 7: with 3 classes labels run from 0 to 2, or are 255, which is ignored '
     '(ignore_index)'),
    (lambda made: made.astype(np.uint16) + 300, 'has label '),
    (lambda made: np.stack(3 * [made], -1), 'is no map: it has the shape ('),
    (lambda made: made[:7, :9], 'has ')])
def test_a_map_that_does_not_fit_is_named(stage, pipeline, change, words, maps):
    folder = maps(change)
    data = guarded(dataset(folder, pipeline), stage)
    data[0]
    with pytest.raises(SampleError) as error:
        data[1]
    assert str(error.value).startswith(
        f"map '{folder}/maps/1.png' of image '{folder}/images/1.jpg' {words}")
    assert str(error.value).endswith('. Repair it, or leave up to N such images out with '
                                     'default_hooks.samples.max_skips=N' if stage == 'train' else
                                     '. Repair it: only the training leaves images out')


@pytest.mark.parametrize(('stage', 'size'), [
    ('train', '16 x 16 after its transforms'), ('val', '24 x 32')])
def test_sizes_are_named_as_they_are_compared(stage, size, maps):
    data = guarded(dataset(maps(lambda made: made[:7, :9]), dict(STAGES)[stage]), stage)
    with pytest.raises(SampleError, match=rf'has \d x \d pixels and the image {size}: both must'):
        data[1]


def test_a_map_that_does_not_fit_is_left_out_when_asked(maps):
    data = guarded(dataset(maps(label7)), 'train', max_skips=1)
    assert data.prepare_data(1) is None
    assert '0.jpg' in data[1]['data_samples'].img_path


@pytest.mark.parametrize(('stage', 'pipeline'), STAGES)
@pytest.mark.parametrize(('ignored', 'options', 'fits'), [
    ((7, 255), {}, True), ((7, ), {}, True), ((), dict(ignore_index=7), True),
    ((255, ), dict(ignore_index=7), False), ((None, ), {}, False), ((), {}, False)])
def test_what_is_ignored_is_said_by_those_who_ignore_it(stage, pipeline, ignored, options, fits,
                                                        maps):
    """The data set is asked where losses and metrics do not say."""
    data = guarded(dataset(maps(label7), pipeline, **options), stage, ignored=ignored)
    if fits:
        assert data[1]
    else:
        with pytest.raises(SampleError, match='has label 7'):
            data[1]


def test_a_single_class_has_a_background(maps):
    """As mmseg's sigmoid over one channel takes it."""
    data = guarded(dataset(maps(lambda made: made % 2), classes=('lesion', )), 'train')
    assert set(data[1]['data_samples'].gt_sem_seg.data.unique().tolist()) <= {0, 1, 255}


def test_pictures_that_are_exchanged_where_they_are_missing_are_told(maps, said):
    folder = maps()
    (folder / 'images/1.jpg').rename(folder / 'images/2.jpg')
    (folder / 'list.txt').write_text('0\n1\n')
    steps = [dict(type='LoadImageFromFile', ignore_empty=True), *TRAIN[1:]]
    check_dataset(dataset(folder, steps, ann_file='list.txt'), nn.Module(), 'train_dataloader')
    assert len(said) == 1


def test_classes_that_are_not_known_are_not_compared(maps):
    data = dataset(maps(label7))
    data._metainfo.pop('classes')
    assert guarded(data, 'train')[1]


@pytest.mark.parametrize(('loader', 'way'), [
    ('train_dataloader', ', or leave up to N samples out with default_hooks.samples.max_skips=N'),
    ('val_dataloader', '')])
def test_a_map_that_is_not_there_is_named_before_the_first_step(loader, way, maps, said):
    folder = maps()
    check_dataset(dataset(folder), nn.Module(), loader)
    (folder / 'maps/1.png').unlink()
    with pytest.raises(InputError) as error:
        check_dataset(dataset(folder), nn.Module(), loader)
    text = f"{loader}: 1 of 2 samples lack their picture or map: '{folder}/maps/1.png'"
    assert str(error.value) == f'{text}. Bring them, or take their samples out{way}'
    assert said == []
    check_dataset(dataset(folder), nn.Module(), loader, most_missing=1)
    assert said == [text]


def test_a_picture_that_a_list_names_is_looked_for_too(maps):
    folder = maps()
    (folder / 'list.txt').write_text('0\n7\n')
    data = dataset(folder, ann_file='list.txt')
    with pytest.raises(InputError, match=r"1 of 2 samples lack .*images/7\.jpg', .*maps/7\.png'"):
        check_dataset(data, nn.Module(), 'train_dataloader')


@pytest.mark.parametrize('options', [
    dict(pipeline=[LOAD[0], dict(type='PackSegInputs')]), dict(backend_args=dict(backend='local'))])
def test_maps_that_nothing_reads_or_that_are_elsewhere_are_not_looked_for(options, maps, said):
    folder = maps()
    (folder / 'maps/1.png').unlink()
    with pytest.raises(InputError, match='1 of 2 samples lack'):
        check_dataset(dataset(folder), nn.Module(), 'train_dataloader')
    check_dataset(dataset(folder, **options), nn.Module(), 'train_dataloader', most_missing=2)
    assert said == []  # they would be told


def test_labels_beyond_8_bits_are_refused_before_the_first_step(maps):
    """Modulo 256 they may be those of classes."""
    data = dataset(maps(lambda made: made.astype(np.uint16) + 299))
    with pytest.raises(InputError) as error:
        check_dataset(data, nn.Module(), 'train_dataloader')
    assert str(error.value).startswith(
        f"train_dataloader: map '{data.data_root}/maps/1.png' has label 554, which mmseg would "
        'take for 42: it keeps 8 bits of a label. Save maps of 8 bits')


@pytest.mark.parametrize('change', [
    lambda made: made.astype(np.uint16), lambda made: np.where(made == 255, 65535, made).astype(
        np.uint16), lambda made: made.astype(np.uint16) * 257],
    ids=['small numbers', 'ignored as 65535', '8 bits in 16'])
def test_maps_of_16_bits_that_lose_nothing_are_taken(change, maps):
    data = dataset(maps(change))
    check_dataset(data, nn.Module(), 'train_dataloader')
    found = guarded(data, 'train')[1]['data_samples'].gt_sem_seg.data
    assert set(found.unique().tolist()) <= {0, 1, 2, 255}


def test_a_map_that_pillow_finds_too_large_is_left_to_its_reader(maps, monkeypatch):
    data = dataset(maps())
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 9)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(data.data_root + '/maps/1.png')
    check_dataset(data, nn.Module(), 'train_dataloader')


def test_a_map_that_cannot_be_opened_is_left_to_its_reader(maps):
    folder = maps()
    (folder / 'maps/1.png').write_bytes(b'no picture')
    data = dataset(folder)
    check_dataset(data, nn.Module(), 'train_dataloader')
    with pytest.raises(SampleError, match=r'maps/1\.png'):
        guarded(data, 'train')[1]


@pytest.mark.parametrize(('options', 'suffix'), [(dict(img_suffix='.jpeg'), "='.jpeg'"), ({}, '')])
def test_where_no_picture_is_found_folder_and_suffix_are_named(options, suffix, maps):
    folder = maps()
    if not options:
        for path in (folder / 'images').iterdir():
            path.unlink()
    with pytest.raises(ValueError, match='need at least one array') as error:
        dataset(folder, **options)
    cfg = Config(dict(train_dataloader=dict(dataset=dict(
        type='BaseSegDataset', data_root=str(folder), data_prefix=dict(
            img_path='images', seg_map_path='maps'), **options))))
    assert build_problem(error.value, cfg, 'train') == (
        'train_dataloader: no picture is left; look at train_dataloader.dataset.img_suffix'
        f"{suffix} and data_prefix.img_path, which is '{folder}/images'")
