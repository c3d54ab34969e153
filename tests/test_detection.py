"""The backbone in mmdet: one fresh process, and a test for each thing it has seen."""
import os
import subprocess
import sys
from ast import literal_eval
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec('mmdet') is None, reason='mmdet is not installed')

START = '''
import mmcv_operators
import torch
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
import mmdet.models
init_default_scope('mmdet')

def retinanet(arch, channels, divisor=32, **backbone):
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=divisor),
        backbone=dict(type='mmeffnet.EfficientNet', arch=arch, out_indices=(3, 4, 5), **backbone),
        neck=dict(type='FPN', in_channels=channels, out_channels=16, start_level=0,
                  add_extra_convs='on_output', num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16,
                       stacked_convs=1,
                       anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4,
                                             scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                                             strides=[8, 16, 32, 64, 128]),
                       bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        test_cfg=dict(nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                      max_per_img=10))

def levels(detector, size):
    """Height and width of each level of the class scores for one square image."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    inputs = detector.data_preprocessor(dict(inputs=[image], data_samples=None))['inputs']
    with torch.no_grad():
        scores, _ = detector.eval()(inputs, mode='tensor')
    return [tuple(score.shape[-2:]) for score in scores]

b0 = [40, 112, 320]
seen = dict(type=type(MODELS.build(retinanet('b0', b0)).backbone).__module__)
seen['padded'] = levels(MODELS.build(retinanet('b0', b0)), 500)
seen['not padded'] = levels(MODELS.build(retinanet('b0', b0, divisor=1)), 500)
seen['b7'] = levels(MODELS.build(retinanet('b7', [80, 224, 640])), 64)

# A child of a ResNet config that changes the backbone's type without `_delete_=True`.
try:
    MODELS.build(retinanet('b0', b0, depth=50))
except TypeError as error:
    seen['left over'] = str(error)

from mmdet.apis import init_detector
open('detector.py', 'w').write(
    f'model = {retinanet("b0", b0)!r}\\ncustom_imports = dict(imports=["mmeffnet"])\\n'
    'test_dataloader = dict(dataset=dict(type="CocoDataset"))\\n')
detector = init_detector('detector.py', device='cpu', palette='random')
seen['init_detector'] = type(detector.backbone).__module__
seen['own'] = type(MODELS.build(dict(type='EfficientNet'))).__module__
print(seen)
'''


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', START], text=True,
                          capture_output=True, cwd=tmp_path_factory.mktemp('detection'),
                          env={**os.environ, 'PYTHONPATH': str(Path(__file__).parent)})
    assert done.returncode == 0, done.stderr
    return literal_eval(done.stdout.split('\n')[-2])  # libraries may print before


def test_mmdet_builds_the_backbone_by_its_prefix(seen):
    assert seen['type'] == 'mmeffnet.models.efficientnet'


def test_image_of_500_px_padded_to_512_gives_every_level(seen):
    # 512 over the strides 8, 16, 32, then halved twice.
    assert seen['padded'] == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]


def test_image_of_500_px_without_padding_gives_every_level_too(seen):
    # 500 over 8, 16, 32, rounded up: the neck upsamples to the size of the finer level.
    assert seen['not padded'] == [(63, 63), (32, 32), (16, 16), (8, 8), (4, 4)]


def test_pyramid_of_b7_fits_a_neck_of_80_224_and_640_channels(seen):
    assert seen['b7'] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


def test_argument_left_over_from_resnet_is_refused_by_name(seen):
    assert "unexpected keyword argument 'depth'" in seen['left over']


def test_init_detector_builds_a_config_with_custom_imports_alone(seen):
    assert seen['init_detector'] == 'mmeffnet.models.efficientnet'


def test_mmdets_own_efficientnet_stays_what_it_is(seen):
    assert seen['own'] == 'mmdet.models.backbones.efficientnet'
