"""COCO data as it is found: odd pictures are trained on, and wrong files are named in one line."""
import json
import re

import pytest
import torch
from coco_files import CONFIG, content, write
from conftest import run_tool
from downstream import need
from PIL import Image
from torch import nn

need('mmdet', 'mmcv._ext')

from mmdet.datasets import (  # noqa: E402
    CocoDataset,
    CocoPanopticDataset,
    MOTChallengeDataset,
    YouTubeVISDataset,
)
from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

from mmeffnet import config_path  # noqa: E402
from mmeffnet.engine.coco_checks import check_categories  # noqa: E402
from mmeffnet.engine.data_checks import check_dataset, data_problem  # noqa: E402
from mmeffnet.engine.model_checks import check_predictors  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402


@pytest.fixture
def coco(tmp_path):
    """Write pictures and an annotation file that ``change`` has been made to: a folder."""
    return lambda change=lambda made: None: write(tmp_path / 'coco', change)


def check(folder, classes=('square', 'circle'), heads=None, most_missing=0, pipeline=(),
          indices=None, **filter_cfg):
    dataset = CocoDataset(ann_file=str(folder / 'boxes.json'), data_prefix=dict(img=str(folder)),
                          metainfo=dict(classes=classes), pipeline=list(pipeline),
                          filter_cfg=filter_cfg, indices=indices)
    model = nn.Module()
    for name, number in (heads or {}).items():
        head = nn.Module()
        head.num_classes = number
        model.add_module(name, head)
    check_dataset(dataset, model, 'train_dataloader', most_missing)
    return dataset


@pytest.mark.parametrize('batch', [1, 3])
def test_pictures_of_any_size_with_or_without_objects_train_and_evaluate(coco, tmp_path, batch):
    coco()
    (tmp_path / 'detector.py').write_text(CONFIG % batch)
    result = run_tool('train.py', 'detector.py', '--work-dir', 'out', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'coco/bbox_mAP' in result.stdout
    state = torch.load(tmp_path / 'out/epoch_1.pth', weights_only=True)['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_category_that_the_config_does_not_know_is_left_out_and_counted(coco, said):
    def change(made):
        made['categories'].append(dict(id=9, name='star'))
        made['annotations'][1]['category_id'] = 9
    dataset = check(coco(change))
    (line, ) = [line for line in said if 'left out' in line]
    assert "1 annotations in" in line
    assert "is no class of the data set: 'star' (1)" in line
    assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == 4


def test_a_class_that_the_file_does_not_have_is_named(coco):
    folder = coco()
    with pytest.raises(InputError, match=r"has no category 'person', .* are 'square', 'circle'\. "
                                         r'Set train_dataloader\.dataset\.metainfo\.classes'):
        check(folder, classes=('person', 'square'))


def test_classes_in_another_order_than_the_file_are_refused(coco):
    """mmdet numbers by the file and names by the config: every name would be wrong."""
    folder = coco()
    with pytest.raises(InputError, match=r"another order .*set metainfo\.classes="
                       r"\('square', 'circle'\) for all data sets of the run"):
        check(folder, classes=('circle', 'square'))


def test_pictures_that_are_not_there_are_named_before_the_first_step(coco):
    folder = coco()
    for i in (1, 4):
        (folder / f'{i}.png').unlink()
    with pytest.raises(InputError, match=r"2 of 6 pictures of .*boxes\.json.* are not there: "
                                         r".*1\.png.*4\.png.*max_skips=N"):
        check(folder)


def test_pictures_that_are_not_there_may_be_left_out(coco, said):
    folder = coco()
    (folder / '1.png').unlink()
    check(folder, most_missing=1)
    assert [line for line in said if '1 of 6 pictures' in line]


@pytest.mark.parametrize(('kind', 'options'), [
    (MOTChallengeDataset, {}), (YouTubeVISDataset, dict(dataset_version='2019'))])
def test_a_video_is_looked_at_picture_by_picture(coco, kind, options):
    def change(made):
        made['images'] = [dict(image, video_id=1, frame_id=image['id'], width=64, height=64)
                          for image in made['images'] if image['id'] in (0, 4)]
        made['annotations'] = [dict(box, video_id=1, instance_id=1, visibility=1.0, mot_conf=1.0)
                               for box in made['annotations'] if box['image_id'] in (0, 4)]
    folder = coco(change)
    videos = kind(ann_file=str(folder / 'boxes.json'), data_prefix=dict(img_path=str(folder)),
                  metainfo=dict(classes=('square', 'circle')), pipeline=[], **options)
    assert len(videos) == 1
    check_dataset(videos, nn.Module(), 'train_dataloader')
    (folder / '4.png').unlink()
    with pytest.raises(InputError, match=r'1 of 2 pictures of .* are not there: .*4\.png'):
        check_dataset(videos, nn.Module(), 'train_dataloader')


@pytest.mark.parametrize(('place', 'key'), [
    ('annotations', 'category_id'), ('annotations', 'id'), ('annotations', 'image_id'),
    ('annotations', 'bbox'), ('annotations', 'area'), ('images', 'id'), ('images', 'width'),
    ('images', 'height'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')])
def test_an_entry_that_lacks_what_every_entry_has_is_named(coco, place, key):
    folder = coco(lambda made: made[place][1].pop(key))
    with pytest.raises(InputError, match=rf"boxes\.json': {place}\[1\] has no '{key}'"):
        check_categories(folder / 'boxes.json', ('square', 'circle'), 'train_dataloader')


@pytest.mark.parametrize(('place', 'key', 'value', 'rule'), [
    ('annotations', 'bbox', [1, 2, 3], 'must be 4 finite numbers'),
    ('annotations', 'bbox', '1,2,3,4', 'must be 4 finite numbers'),
    ('annotations', 'bbox', ['1', '2', '3', '4'], 'must be 4 finite numbers'),
    ('annotations', 'bbox', None, 'must be 4 finite numbers'),
    ('annotations', 'bbox', [float('nan'), 2, 3, 4], 'must be 4 finite numbers'),
    ('annotations', 'bbox', [1, 2, float('inf'), 4], 'must be 4 finite numbers'),
    ('annotations', 'area', '9', 'must be a number'),
    ('annotations', 'category_id', [1], 'must be a number or text'),
    ('annotations', 'image_id', {}, 'must be a number or text'),
    ('images', 'width', None, 'must be a number'),
    ('images', 'file_name', 7, 'must be text'),
    ('categories', 'id', [1], 'must be a number or text')])
def test_a_value_that_mmdet_cannot_take_is_named(coco, place, key, value, rule):
    folder = coco(lambda made: made[place][1].update({key: value}))
    with pytest.raises(InputError, match=(
            rf"^train_dataloader: '.*boxes\.json': {place}\[1\]\.{key}="
            rf"{re.escape(repr(value))} {rule}.*: set it right or take the entry out$")):
        check_categories(folder / 'boxes.json', ('square', 'circle'), 'train_dataloader')


def test_pictures_of_lvis_have_an_address_for_a_name(coco):
    def change(made):
        for image in made['images']:
            image['coco_url'] = f'http://there/{image.pop("file_name")}'
    content = check_categories(coco(change) / 'boxes.json', ('square', 'circle'),
                               'train_dataloader')
    assert content.images[3]['coco_url'] == 'http://there/3.png'
    assert content.used(('square', 'circle')).sum() == 5


@pytest.mark.parametrize('key', ['id', 'category_id', 'bbox', 'area'])
def test_a_segment_of_panoptic_data_that_lacks_something_is_named(key, tmp_path):
    panoptic(tmp_path)
    path = tmp_path / 'segments.json'
    made = json.loads(path.read_text())
    made['annotations'].append(dict(image_id=0, segments_info=[]))  # of a picture without any
    path.write_text(json.dumps(made))
    check_categories(path, PANOPTIC['classes'], 'train_dataloader')
    made['annotations'][0]['id'] = 7
    del made['annotations'][0]['segments_info'][1][key]
    path.write_text(json.dumps(made))
    with pytest.raises(InputError, match=(
            rf"annotations\[0\]\.segments_info\[1\] has no '{key}'")):
        check_categories(path, PANOPTIC['classes'], 'train_dataloader')


def test_entries_that_are_no_objects_are_named(coco):
    folder = coco(lambda made: made.update(images=['0.png']))
    with pytest.raises(InputError, match=r"images\[0\] has no 'id'"):
        check_categories(folder / 'boxes.json', ('square', 'circle'), 'train_dataloader')


def test_classes_may_be_listed_in_a_file(coco):
    folder = coco()
    (folder / 'names.txt').write_text('square\ncircle\n')
    (folder / 'other.txt').write_text('square\nstar\n')

    def problem(classes):
        return data_problem(Config(dict(train_dataloader=dict(dataset=dict(
            type='mmdet.CocoDataset', ann_file=str(folder / 'boxes.json'),
            metainfo=dict(classes=str(classes)))))), 'train_dataloader')
    assert problem(folder / 'names.txt') is None
    check(folder, classes=str(folder / 'names.txt'), heads=dict(bbox_head=2))
    with pytest.raises(InputError, match="has no category 'star', which"):
        problem(folder / 'other.txt')
    for refused in (lambda: problem('square'), lambda: check(folder, classes='square')):
        with pytest.raises(InputError, match=(
                r"metainfo\.classes='square' is a string and no file .*"
                r"write classes=\('square', \)")):
            refused()


@pytest.mark.parametrize(('changed', 'words'), [
    ("train_dataloader['dataset']['filter_cfg'] = dict(min_size=500)", 'no sample is left'),
    # COCO's 80 classes, of which the file has none; mmdet would filter every picture away.
    ("train_dataloader['dataset']['metainfo'] = None", "no category 'person', 'bicycle'"),
    ("train_dataloader['dataset']['ann_file'] = 'torn.json'", 'is no JSON'),
    ("train_dataloader['dataset']['ann_file'] = 'null.json'", 'annotations[0].bbox=None must be'),
    ("train_dataloader['dataset']['ann_file'] = 'other.json'", "has no 'categories'")])
def test_what_leaves_no_sample_is_said_in_one_line(coco, tmp_path, changed, words):
    folder = coco()
    (folder / 'torn.json').write_text((folder / 'boxes.json').read_text()[:200])
    (folder / 'other.json').write_text('{"images": []}')
    made = content()
    made['annotations'][0]['bbox'] = None
    (folder / 'null.json').write_text(json.dumps(made))
    apart = "train_dataloader = __import__('copy').deepcopy(train_dataloader)"
    (tmp_path / 'detector.py').write_text(f'{CONFIG % 1}\n{apart}\n{changed}\n')
    result = run_tool('train.py', 'detector.py', cwd=tmp_path)
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith('error: train_dataloader')
    assert words in line


PANOPTIC = dict(classes=('square', 'circle', 'sky'), thing_classes=('square', 'circle'),
                stuff_classes=('sky', ))


def panoptic(folder, metainfo=None):
    """A picture that is half a square and half sky."""
    Image.new('RGB', (8, 8)).save(folder / '0.png')
    segments = [dict(id=1, category_id=1, area=32, bbox=[0, 0, 4, 8], iscrowd=0),
                dict(id=2, category_id=3, area=32, bbox=[4, 0, 4, 8], iscrowd=0)]
    (folder / 'segments.json').write_text(json.dumps(dict(
        images=[dict(id=1, file_name='0.png', height=8, width=8)],
        annotations=[dict(image_id=1, file_name='0.png', segments_info=segments)],
        categories=[dict(id=i + 1, name=name, isthing=name != 'sky')
                    for i, name in enumerate(PANOPTIC['classes'])])))
    return CocoPanopticDataset(
        ann_file=str(folder / 'segments.json'), metainfo=metainfo or PANOPTIC,
        data_prefix=dict(img=str(folder), seg=str(folder)), pipeline=[])


def heads(**numbers):
    """A module with heads of so many classes, '__' standing for a dot."""
    model = nn.Module()
    model.roi_head = nn.Module()
    for name, number in numbers.items():
        owner, _, name = name.rpartition('__')
        head = nn.Module()
        head.num_classes = number
        (model.roi_head if owner else model).add_module(name, head)
    return model


@pytest.mark.parametrize('name', ['roi_head__bbox_head', 'roi_head__mask_head', 'bbox_head'])
def test_heads_for_objects_of_panoptic_data_have_the_classes_of_things(tmp_path, name):
    dataset = panoptic(tmp_path)
    assert [s['category'] for s in dataset.get_data_info(0)['segments_info']] == [0, 2]
    check_dataset(dataset, heads(decode_head=3, **{name: 2}), 'train_dataloader')
    with pytest.raises(InputError, match=(
            r'has 2 classes of things and the model has 3: set model\.'
            rf'{name.replace("__", ".")}\.num_classes=2')):
        check_dataset(dataset, heads(**{name: 3}), 'train_dataloader')
    with pytest.raises(InputError, match=r'has 3 classes and .*model\.decode_head\.num_classes=3'):
        check_dataset(dataset, heads(decode_head=2), 'train_dataloader')


def test_a_head_is_not_held_against_the_things_of_other_classes(tmp_path):
    dataset = panoptic(tmp_path, dict(classes=PANOPTIC['classes']))  # beside COCO's 80 things
    assert len(dataset.metainfo['thing_classes']) == 80
    assert check_dataset(dataset, heads(roi_head__bbox_head=2), 'train_dataloader') is None
    with pytest.raises(InputError, match=r'has 3 classes and .*model\.decode_head\.num_classes=3'):
        check_dataset(dataset, heads(decode_head=2, roi_head__bbox_head=2), 'train_dataloader')


def test_mmdets_panoptic_fpn_fits_its_data():
    cfg = Config.fromfile(config_path('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'))
    roi_head = cfg.model.roi_head
    dataset = CocoPanopticDataset(data_prefix=dict(img='', seg=''), lazy_init=True)
    check_predictors(dataset, heads(roi_head__bbox_head=roi_head.bbox_head.num_classes,
                                    roi_head__mask_head=roi_head.mask_head.num_classes), 'train')
    assert roi_head.bbox_head.num_classes == 80


def things_and_stuff(name, things, stuff):
    model, head = nn.Module(), nn.Module()
    head.num_things_classes, head.num_stuff_classes = things, stuff
    model.add_module(name, head)
    return model


@pytest.mark.parametrize('name', ['panoptic_head', 'panoptic_fusion_head', 'semantic_head'])
def test_things_and_stuff_of_a_head_are_those_of_panoptic_data(tmp_path, name):
    own, beside = panoptic(tmp_path), panoptic(tmp_path, dict(classes=PANOPTIC['classes']))
    for dataset in (own, beside):
        check_predictors(dataset, things_and_stuff(name, 2, 1), 'train')
    check_predictors(beside, things_and_stuff(name, 1, 2), 'train')  # its things are not known
    for numbers in ((80, 53), (1, 2)):
        with pytest.raises(InputError, match=(
                rf'train: the data set has 2 classes of things and 1 of stuff and the model has '
                rf'{numbers[0]} of things and {numbers[1]} of stuff: set model\.{name}\.'
                r'num_things_classes and num_stuff_classes to 2 and 1')):
            check_predictors(own, things_and_stuff(name, *numbers), 'train')


def test_a_head_for_panoptic_data_may_have_things_alone(coco):
    """As mmdet's Mask2Former has where it finds instances."""
    dataset = check(coco())  # of two classes
    init_default_scope('mmdet')
    model = Config.fromfile(config_path(
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py')).model
    coco80 = CocoDataset(lazy_init=True)
    for name in ('panoptic_head', 'panoptic_fusion_head'):
        numbers = (model[name].num_things_classes, model[name].num_stuff_classes)
        check_predictors(coco80, things_and_stuff(name, *numbers), 'train')
        with pytest.raises(InputError, match=(
                rf'has 2 classes and the model has 80 of things and 0 of stuff: set model\.{name}.*'
                r'to numbers that add up to 2')):
            check_predictors(dataset, things_and_stuff(name, *numbers), 'train')


def test_segments_of_an_unknown_category_are_counted(tmp_path, said):
    panoptic(tmp_path)
    check_categories(tmp_path / 'segments.json', ('square', ), 'train_dataloader', cat_ids=[1])
    (line, ) = [line for line in said if 'left out' in line]
    assert '1 annotations in' in line
    assert "'sky' (1)" in line


@pytest.mark.parametrize('name', [
    'rpn/rpn_r50_fpn_1x_coco.py', 'guided_anchoring/ga-rpn_r50_fpn_1x_coco.py'])
def test_proposals_are_of_no_class(coco, name):
    init_default_scope('mmdet')
    model = Config.fromfile(config_path(f'mmdet::{name}')).model
    model.backbone.init_cfg = None
    model = MODELS.build(model)
    assert getattr(model.bbox_head, 'num_classes', 1) == 1
    dataset = check(coco())  # of two classes
    check_dataset(dataset, model, 'train_dataloader')


@pytest.mark.parametrize('name', ['bbox_head', 'mask_head', 'track_head', 'decode_head'])
def test_a_head_with_another_number_of_classes_is_named(coco, name):
    folder = coco()
    with pytest.raises(InputError, match=rf'has 2 classes and the model has 80: set model\.{name}'
                                         r'\.num_classes=2'):
        check(folder, heads={name: 80})
    check(folder, heads={name: 2})


def test_a_panoptic_file_is_refused_for_a_segment_that_has_no_class(tmp_path):
    """mmdet would end in a KeyError: it leaves out no segment."""
    panoptic(tmp_path)
    path = tmp_path / 'segments.json'

    def refused(classes, words):
        with pytest.raises(InputError, match=(
                r"segments\.json': annotations\[0\]\.segments_info\[1\]\.category_id="
                rf'{words}, and mmdet leaves no segment out')):
            check_categories(path, classes, 'train_dataloader')
    refused(('square', 'circle'), "3 is 'sky', no class of the data set")
    made = json.loads(path.read_text())
    made['annotations'][0]['segments_info'][1]['category_id'] = 999
    path.write_text(json.dumps(made))
    refused(PANOPTIC['classes'], '999 is no category of the file')
    for folder in ('', 'gone'):  # whose absence is no matter then
        with pytest.raises(InputError, match='999 is no category'):
            data_problem(Config(dict(train_dataloader=dict(dataset=dict(
                type='mmdet.CocoPanopticDataset', ann_file=str(path), metainfo=PANOPTIC,
                data_prefix=dict(seg=str(tmp_path / folder)))))), 'train_dataloader')
    del made['categories'][2]['isthing']
    path.write_text(json.dumps(made))
    with pytest.raises(InputError, match=r"categories\[2\] has no 'isthing'"):
        check_categories(path, PANOPTIC['classes'], 'train_dataloader')


def box(*numbers, **others):
    return dict(bbox=list(numbers), **others)


@pytest.mark.parametrize(('changed', 'words'), [
    (box(5, 5, 0, 9), 'their box is less than a pixel wide or high'),
    (box(5, 5, 9, .5), 'their box is less than a pixel wide or high'),
    (box(30, 30, -9, -9), 'their box is less than a pixel wide or high'),
    (dict(area=0), 'their area is not above 0'),
    (box(64, 5, 9, 9), 'their box lies outside its picture'),
    (box(5, -9, 9, 9), 'their box lies outside its picture'),
    (dict(image_id=99), 'their image_id is no picture of the file')])
def test_annotations_that_mmdet_leaves_out_are_counted(coco, said, changed, words):
    dataset = check(coco(lambda made: made['annotations'][0].update(changed)))
    (line, ) = [line for line in said if 'left out' in line]
    assert '1 annotations in' in line
    assert f'{words} (1), such as annotations[0] of image_id={changed.get("image_id", 0)} ' in line
    # It is what mmdet does.
    assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == 4


@pytest.mark.parametrize('marked', [box(0, 0, 0, 0, ignore=1), dict(bbox=[], area='?', ignore=1)])
def test_nothing_is_said_of_annotations_that_are_used_or_marked(coco, said, marked):
    check(coco(lambda made: made['annotations'][0].update(marked)))
    assert not [line for line in said if 'left out' in line]


def test_annotations_that_are_all_left_out_are_refused(coco):
    """As where boxes are shares of the picture: the training would run to its end on none."""
    def shares(made):
        for item in made['annotations']:
            item['bbox'] = [number / 99 for number in item['bbox']]
    with pytest.raises(InputError, match=(
            r"^train_dataloader: all 5 annotations of its classes in '.*boxes\.json' are left out, "
            r'for their box is less than a pixel .* \(5\), such as annotations\[0\] of image_id=0 '
            r'with bbox=\[0\.05.*in pixels of the picture')):
        check(coco(shares))


def test_scores_are_counted_with_areas_of_0(coco, said):
    folder = coco(lambda made: [item.update(area=0) for item in made['annotations']])
    check_categories(folder / 'boxes.json', ('square', 'circle'), 'val_dataloader')
    assert any('5 annotations' in line and 'their area is not above 0' in line for line in said)
    with pytest.raises(InputError, match='all 5 annotations'):
        check(folder)


def test_a_picture_that_is_listed_twice_alike_is_one(coco):
    dataset = check(coco(lambda made: made['images'].append(made['images'][2])))
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [*range(6)]


def test_annotations_of_no_picture_need_no_box(coco, said):
    check(coco(lambda made: made['annotations'].append(dict(id=99, image_id=99, category_id=1))))
    assert any('their image_id is no picture of the file (1)' in line for line in said)


@pytest.mark.parametrize(('place', 'entry', 'words'), [
    ('categories', dict(id=1, name='star'), r"categories\[2\]\.id=1 is that of categories\[0\]"),
    ('categories', dict(id=9, name='square'),
     r"has 2 categories with the name 'square', of id 1, 9, and"),
    ('images', dict(id=3, file_name='0.png', width=9, height=9),
     r"images\[6\]\.id=3 is that of images\[3\] too, and one")])
def test_what_occurs_twice_is_refused(coco, place, entry, words):
    folder = coco(lambda made: made[place].append(entry))
    with pytest.raises(InputError, match=words):
        check(folder)


def test_a_name_that_occurs_twice_matters_to_its_class_alone(coco):
    folder = coco(lambda made: made['categories'].extend(
        [dict(id=8, name='star'), dict(id=9, name='star')]))
    assert check(folder).cat_ids == [1, 5]


MASKS = [dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]


@pytest.mark.parametrize('without', [{}, dict(segmentation=[])])
def test_an_object_without_a_mask_is_named_where_masks_are_loaded(coco, said, without):
    def change(made):
        for item in made['annotations']:
            item['segmentation'] = [[0, 0, 9, 0, 9, 9]]
        for number in (1, 3):
            del made['annotations'][number]['segmentation']
            made['annotations'][number].update(without)
        made['annotations'][4].update(box(0, 0, 0, 0), segmentation=[])  # is left out anyway
    folder = coco(change)
    check(folder)
    with pytest.raises(InputError, match=(
            r"^train_dataloader: 2 annotations in '.*boxes\.json' have no 'segmentation', and the "
            r'pipeline loads masks: annotations\[1\], annotations\[3\]\. Add polygons')):
        check(folder, pipeline=MASKS)
    with pytest.raises(InputError, match='2 annotations'):
        check(folder, pipeline=MASKS, most_missing=1)
    check(folder, pipeline=MASKS, most_missing=2)
    check(folder, pipeline=MASKS, indices=[0, 3])  # their pictures are left out
    assert [line for line in said if "have no 'segmentation'" in line]
