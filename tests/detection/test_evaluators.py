"""An evaluator that counts with other data than it will see is named before the first step."""
import json
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from coco_files import CONFIG, write
from downstream import need
from mmengine.registry import init_default_scope

need('mmdet', 'mmcv._ext')

from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.evaluation import CocoMetric, VOCMetric  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import ConcatDataset  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch import nn  # noqa: E402

from mmeffnet import config_path  # noqa: E402
from mmeffnet.engine import run  # noqa: E402
from mmeffnet.engine.config import load_config  # noqa: E402
from mmeffnet.engine.data_checks import build_problem  # noqa: E402
from mmeffnet.engine.evaluator_checks import check_evaluator  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Write 'coco/boxes.json', and 'other.json' that ``change`` has been made to."""
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / 'coco')

    def other(change=lambda made: None):
        made = json.loads((folder / 'boxes.json').read_text())
        change(made)
        (tmp_path / 'other.json').write_text(json.dumps(made))
        return 'other.json'
    return other


def dataset(path='coco/boxes.json'):
    return CocoDataset(ann_file=path, data_prefix=dict(img='coco'), test_mode=True,
                       metainfo=dict(classes=('square', 'circle')), pipeline=[])


def check(*settings, data=None, model=None, **single):
    """Check a metric, or several by their settings, against a data set."""
    metrics = list(settings) or [single]
    evaluator = Evaluator([CocoMetric(**options) for options in metrics])
    cfg = Config(dict(val_evaluator=metrics if settings else single))
    check_evaluator(cfg, 'val', evaluator, data or dataset(), model or nn.Module())


def refusal(*settings, **options):
    """What is said of a metric that is refused, None of one that is taken."""
    try:
        check(*settings, **options)
    except InputError as error:
        return str(error)
    return None


def shifted(made):
    for part, key in (('images', 'id'), ('annotations', 'image_id')):
        for item in made[part]:
            item[key] += 1000


def renamed(made):
    for image in made['images']:
        image['file_name'] = f'9{image["file_name"]}'


def longer(made):
    made['images'].append(dict(id=77, file_name='77.png', width=8, height=8))


@pytest.mark.parametrize(('change', 'words'), [
    (shifted, r"6 images against 6, of which 6 only in the first, such as '0' \(id 1000\), .* and "
              r"3 more and 6 only in the second, such as '0' \(id 0\)"),
    (renamed, r"6 only in the first, such as '90' \(id 0\)"),
    (longer, r"7 images against 6, of which 1 only in the first, such as '77' \(id 77\)\. Set"),
    (lambda made: made['images'].pop(), r"1 only in the second, such as '5' \(id 5\)\. Set")])
def test_a_metric_of_other_pictures_than_the_data_set_is_refused(coco, change, words):
    path = coco(change)
    with pytest.raises(InputError, match=(
            r"^val_evaluator\.ann_file 'other\.json' is not of the images of "
            rf"val_dataloader\.dataset\.ann_file 'coco/boxes\.json', .*{words}.*"
            r"val_evaluator\.ann_file='coco/boxes\.json'$")):
        check(ann_file=path)
    with pytest.raises(InputError, match=r"^val_evaluator\.1\.ann_file 'other\.json'"):
        check(dict(ann_file='coco/boxes.json'), dict(ann_file=path))


def test_a_metric_of_the_same_pictures_is_taken(coco):
    def change(made):  # names in other folders, and other annotations
        made['annotations'].pop()
        for image in made['images']:
            image['file_name'] = f'elsewhere/{image["file_name"]}'
    assert refusal(ann_file=coco(change)) is None
    assert refusal(ann_file='coco/../coco/boxes.json') is None
    assert refusal() is None  # takes its annotations from the data set


def test_a_metric_may_be_of_one_data_set_or_of_all(coco, tmp_path):
    both = json.loads((tmp_path / coco(shifted)).read_text())
    for part, items in json.loads((tmp_path / 'coco/boxes.json').read_text()).items():
        both[part] += items if part == 'images' else []
    (tmp_path / 'both.json').write_text(json.dumps(both))
    data = ConcatDataset([dataset(), dataset('other.json')])
    for path in ('coco/boxes.json', 'other.json', 'both.json'):
        assert refusal(ann_file=path, data=data) is None
        assert (refusal(ann_file=path) is None) is (path == 'coco/boxes.json')


def test_annotations_that_pycocotools_cannot_count_with_are_named(coco):
    path = coco(lambda made: made['annotations'][2].pop('iscrowd'))
    with pytest.raises(InputError, match=(r"^val_evaluator\.ann_file: 'other\.json': annotations"
                                          r"\[2\] has no 'iscrowd', .*: add it, 0 for")):
        check(ann_file=path)
    check(ann_file=path, format_only=True, outfile_prefix='out')


def test_annotations_of_other_classes_may_lack_anything(coco):
    def change(made):
        made['categories'].append(dict(id=9, name='star'))
        made['annotations'].append(dict(id=99, image_id=0, category_id=9, bbox=[0, 0, 9, 9],
                                        area=81))
    assert refusal(ann_file=coco(change)) is None
    data = dataset('other.json')
    data._metainfo['classes'] = ('square', 'circle', 'star')
    assert "annotations[5] has no 'iscrowd'" in refusal(ann_file='other.json', data=data)


def test_a_file_may_be_cut_as_the_data_set_is(coco):
    def change(made):
        made['images'] = made['images'][:2]
        made['annotations'] = made['annotations'][:1]
    path, data = coco(change), dataset()
    assert refusal(ann_file=path, data=data.get_subset([0, 1])) is None
    assert '2 images against 6' in refusal(ann_file=path, data=data.get_subset([0, 2]))


def test_metrics_without_a_list_of_what_they_count_are_left_alone(coco):
    cfg = Config(dict(val_evaluator=dict(type='VOCMetric')))
    for evaluator in (Evaluator([VOCMetric()]), SimpleNamespace()):
        assert check_evaluator(cfg, 'val', evaluator, dataset(), nn.Module()) is None


def test_a_metric_without_annotations_is_refused(coco):
    path = coco(lambda made: made['annotations'].clear())
    with pytest.raises(InputError, match=r"^val_evaluator\.ann_file: 'other\.json' has no "
                                         r'annotations, and every score would be -1: .*'
                                         r'val_evaluator\.format_only=True'):
        check(ann_file=path)
    check(ann_file=path, format_only=True, outfile_prefix='out')


def built(evaluator):
    """What is said of an evaluator that cannot be built."""
    init_default_scope('mmdet')
    cfg = Config(dict(val_evaluator=evaluator, val_dataloader=dict(dataset=dict(
        type='CocoDataset', ann_file='gone.json'))))
    with pytest.raises((OSError, KeyError, TypeError, ValueError)) as caught:
        Runner.build_evaluator(None, cfg.val_evaluator)
    return build_problem(caught.value, cfg, 'val')


@pytest.mark.parametrize(('settings', 'problem'), [
    (dict(ann_file='gone.json'), r"^val_evaluator\.ann_file: 'gone\.json' does not exist$"),
    (dict(metric='mIoU'), r"^val_evaluator: KeyError: metric should be one of .*got mIoU\.$"),
    (dict(no_such=1), r"^val_evaluator: TypeError: .*'no_such' \(in the config: "
                      r'val_evaluator\.no_such\)$')])
def test_an_evaluator_that_cannot_be_built_is_to_blame(coco, settings, problem):
    settings = dict(type='CocoMetric', **settings)
    assert re.search(problem, built(settings))
    if 'ann_file' in settings:
        assert built([dict(type='VOCMetric'), settings]).startswith('val_evaluator.1.ann_file: ')


def test_the_file_of_an_evaluator_is_looked_into(coco, tmp_path):
    (tmp_path / 'torn.json').write_text('{"images": [')
    with pytest.raises(InputError, match=r"^val_evaluator\.ann_file: 'torn\.json' is no JSON"):
        built(dict(type='CocoMetric', ann_file='torn.json'))


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_evaluators_are_looked_at_when_a_run_is_built(coco, tmp_path, stage):
    path = coco(shifted)
    (tmp_path / 'detector.py').write_text(CONFIG % 1)
    for ann_file, words in ((path, 'is not of the images of'), ('gone.json', 'does not exist')):
        cfg = load_config('detector.py', {f'{stage}_evaluator.ann_file': ann_file,
                                          'work_dir': 'out'})
        with pytest.raises(InputError, match=rf'^{stage}_evaluator\.ann_file.* {words}'):
            run._build(cfg, [stage])


@pytest.mark.parametrize(('name', 'alone'), [
    ('retinanet/retinanet_r50_fpn_1x_coco', True), ('detr/detr_r50_8xb2-150e_coco', True),
    ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', True),
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco', False), ('solo/solo_r50_fpn_1x_coco', False),
    ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco', False),
    ('mask2former/mask2former_r50_8xb2-lsj-50e_coco', False)])
def test_masks_are_compared_where_a_model_may_predict_them(coco, name, alone):
    init_default_scope('mmdet')
    model = Config.fromfile(config_path(f'mmdet::{name}.py')).model
    model.backbone.init_cfg = None
    model = MODELS.build(model)
    check(model=model)
    refused = pytest.raises(InputError, match=(
        r"^val_evaluator\.metric has 'segm', which compares masks, and \w+ predicts boxes alone: "
        r"set val_evaluator\.metric='bbox', or"))
    with refused if alone else nullcontext():
        check(model=model, metric=['bbox', 'segm'])


def test_annotations_without_masks_are_named_where_masks_are_compared(coco):
    def change(made):
        for item in made['annotations'][:3]:
            item['segmentation'] = [[0, 0, 9, 0, 9, 9]]
    path = coco(change)
    check(ann_file=path)
    with pytest.raises(InputError, match=(r"^val_evaluator\.ann_file: 'other\.json': annotations"
                                          r"\[3\] has no 'segmentation', .*: add its polygons")):
        check(ann_file=path, metric='segm')


def test_a_segment_that_panoptic_quality_cannot_count_with_is_named():
    segments = [dict(id=1, iscrowd=0), dict(id=2)]
    metric = SimpleNamespace(format_only=False, _coco_api=SimpleNamespace(
        imgs={}, dataset=dict(annotations=[dict(image_id=1, segments_info=segments)])))
    with pytest.raises(InputError, match=r"annotations\[0\]\.segments_info\[1\] has no 'iscrowd'"):
        check_evaluator(Config(), 'test', SimpleNamespace(metrics=[metric]), nn.Module(),
                        nn.Module())
