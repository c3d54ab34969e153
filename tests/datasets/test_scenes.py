"""The digit scenes: the same every time, complete or not there, and right in every form."""
import json
import os
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from mmeffnet.datasets import scenes
from mmeffnet.datasets.digit_images import digit_images
from mmeffnet.datasets.scenes import make_scenes
from mmeffnet.errors import InputError
from mmeffnet.version import EXTRAS

pytestmark = pytest.mark.skipif(find_spec('skimage') is None,
                                reason='no photographs: pip install scikit-image')
FEW = dict(train=20, val=17, size=96)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('made') / 'scenes'
    make_scenes(root, **FEW)
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob('*') if path.is_file()}


def annotations(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def decoded(runs):
    """The mask of run lengths, by numpy: column by column, zeros first."""
    values = np.arange(len(runs['counts'])) % 2
    return np.repeat(values, runs['counts']).reshape(runs['size'], order='F').astype(bool)


def test_equal_arguments_give_equal_files(made, tmp_path):
    make_scenes(tmp_path / 'again', **FEW)
    assert contents(tmp_path / 'again') == contents(made)


def test_another_seed_gives_other_pictures(made, tmp_path):
    make_scenes(tmp_path / 'other', **FEW, seed=1)
    name = 'images/train/00000.jpg'
    assert (tmp_path / 'other' / name).read_bytes() != (made / name).read_bytes()


def test_more_scenes_leave_the_first_ones_as_they_are(made, tmp_path):
    make_scenes(tmp_path / 'more', **{**FEW, 'train': 22})
    more, few = contents(tmp_path / 'more'), contents(made)
    assert len([name for name in more if name.startswith('images/train/')]) == 22
    assert all(more[name] == few[name] for name in few if name.startswith('images/'))


def test_scenes_that_are_there_are_kept(made):
    before = (made / 'scenes.json').stat().st_mtime_ns
    make_scenes(made, **FEW)
    assert (made / 'scenes.json').stat().st_mtime_ns == before


@pytest.mark.parametrize('there', [True, False])
def test_a_link_to_no_or_an_empty_folder_is_kept(there, tmp_path):
    if there:
        (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'link').symlink_to('elsewhere')
    make_scenes(tmp_path / 'link', train=1, val=1, size=64)
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'elsewhere/scenes.json').is_file()
    assert {path.name for path in tmp_path.iterdir()} == {'link', 'elsewhere'}


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    for number in (int, np.int64):
        make_scenes(tmp_path / 'a', train=number(1), val=number(1), size=number(64),
                    seed=number(3))
        stamp = json.loads((tmp_path / 'a/scenes.json').read_text())
        assert (stamp['train'], stamp['val'], stamp['size'], stamp['seed']) == (1, 1, 64, 3)


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    (tmp_path / f'.a.{os.getpid()}.part/images/train').mkdir(parents=True)
    make_scenes(tmp_path / 'a', train=1, val=1, size=64)
    assert json.loads((tmp_path / 'a/scenes.json').read_text())['train'] == 1


def test_a_torn_stamp_is_one_line(tmp_path):
    (tmp_path / 'scenes.json').write_text('{')
    with pytest.raises(InputError, match=r"scenes.json' is torn: delete the folder"):
        make_scenes(tmp_path, train=1, val=1, size=64)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_masks_and_run_lengths_say_the_same(made, split):
    coco = annotations(made, split)
    masks = {image['id']: np.asarray(Image.open(
        made / 'masks' / split / image['file_name'].replace('.jpg', '.png')))
        for image in coco['images']}
    covered = {key: np.zeros_like(mask) for key, mask in masks.items()}
    for item in coco['annotations']:
        digit = decoded(item['segmentation'])
        rows, columns = np.nonzero(digit)
        x, y, w, h = item['bbox']
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() - x + 1, rows.max() - y + 1) == (w, h)
        assert item['area'] == digit.sum()
        assert (masks[item['image_id']][digit] == item['category_id']).all()
        covered[item['image_id']][digit] = item['category_id']
    for key, mask in masks.items():
        assert (covered[key] == mask).all()


def test_run_lengths_are_those_of_pycocotools(made):
    coco_masks = pytest.importorskip('pycocotools.mask', reason='pycocotools is the judge')
    for item in annotations(made, 'train')['annotations']:
        digit, (height, width) = decoded(item['segmentation']), item['segmentation']['size']
        theirs = coco_masks.frPyObjects(item['segmentation'], height, width)
        assert (coco_masks.decode(theirs) == digit).all()
        assert coco_masks.toBbox(theirs).tolist() == item['bbox']


def test_some_scenes_are_empty_and_some_digits_lie_on_the_border(made):
    coco = annotations(made, 'train')
    assert {image['id'] for image in coco['images']} - {
        item['image_id'] for item in coco['annotations']} >= {15}
    assert any(0 in item['bbox'][:2] for item in coco['annotations'])


def test_no_digit_and_no_photograph_is_in_both_parts():
    sources = [set(digit_images(split)[2].tolist()) for split in ('train', 'test')]
    assert not sources[0] & sources[1]
    assert not set(scenes.PHOTOGRAPHS['train']) & set(scenes.PHOTOGRAPHS['val'])


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr(scenes, '_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / 'scenes', **FEW)
    assert list(tmp_path.iterdir()) == []


def test_scenes_of_other_numbers_are_not_overwritten(made):
    with pytest.raises(InputError, match='delete the folder or set another data_root'):
        make_scenes(made, **{**FEW, 'size': 128})


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='holds no digit scenes'):
        make_scenes(tmp_path, **FEW)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize(('name', 'value'), [('size', 32), ('train', 0), ('seed', -1)])
def test_a_wrong_number_is_named(tmp_path, name, value):
    with pytest.raises(InputError, match=f'{name}={value} must be a whole number of at least'):
        make_scenes(tmp_path / 'scenes', **{**FEW, name: value})


def data_set(kind, root, needed, **options):
    for module in needed:
        pytest.importorskip(module, reason=EXTRAS[module.partition('.')[0]])
    from mmengine.registry import DATASETS
    return DATASETS.build(dict(type=kind, split='val', data_root=str(root), scenes=FEW,
                               test_mode=True, **options))


def test_the_detection_data_set_reads_the_scenes(made):
    boxes = data_set('mmeffnet.DigitScenes', made, ('mmdet', 'mmcv._ext'))
    wanted = [item for item in annotations(made, 'val')['annotations'] if item['image_id'] == 0]
    assert len(boxes) == 17
    assert [item['bbox_label'] for item in boxes.get_data_info(0)['instances']] == [
        item['category_id'] - 1 for item in wanted]


def test_the_segmentation_data_set_reads_the_scenes(made):
    masks = data_set('mmeffnet.DigitMasks', made, ('mmseg', ))
    assert len(masks) == 17
    assert masks.get_data_info(0)['seg_map_path'].endswith('masks/val/00000.png')


def test_all_digits_may_be_one_class(made):
    from mmengine.registry import init_default_scope
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    pytest.importorskip('mmseg', reason=EXTRAS['mmseg'])
    init_default_scope('mmseg')
    ten = data_set('mmeffnet.DigitMasks', made, ('mmseg', ), pipeline=load)
    one = data_set('mmeffnet.DigitMasks', made, ('mmseg', ), pipeline=load,
                   metainfo=dict(classes=('background', 'digit')))
    assert one.metainfo['classes'] == ('background', 'digit')
    assert len(one.metainfo['palette']) == 2
    for i in range(len(ten)):
        labels = ten[i]['gt_seg_map']
        np.testing.assert_array_equal(one[i]['gt_seg_map'], labels > 0)
    assert labels.max() > 1
