"""The tools run mmdet's configs too: train, resume and test a small detector on a CPU."""
import json
import re
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coco_files import BACKBONE
from conftest import run_tool

pytestmark = pytest.mark.skipif(find_spec('mmdet') is None, reason='mmdet is not installed')

CONFIG = BACKBONE + '''
model.update(
    data_preprocessor=dict(pad_size_divisor=32),
    neck=dict(in_channels=[8, 16], out_channels=16, start_level=0, num_outs=5),
    bbox_head=dict(num_classes=1, in_channels=16, feat_channels=16, stacked_convs=1,
                   anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(score_thr=0.0))  # so few steps leave every score low
_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
             dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs', meta_keys=(
                 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
_data = dict(dataset=dict(data_root='coco/', ann_file='boxes.json', data_prefix=dict(img=''),
                          metainfo=dict(classes=('square', )), pipeline=_pipeline),
             num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, **_data)
val_dataloader = _data
test_dataloader = _data
val_evaluator = dict(ann_file='coco/boxes.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(optimizer=dict(lr=0.02))
'''


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with four annotated pictures, a config, and the operators."""
    folder = tmp_path_factory.mktemp('mmdet')
    (folder / 'coco').mkdir()
    # Python runs this file at its start.
    (folder / 'sitecustomize.py').write_text('import mmcv_operators')
    (folder / 'detector.py').write_text(CONFIG)
    images, boxes = [], []
    for i in range(4):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[10:40, 8 * i:8 * i + 30] = 255
        cv2.imwrite(str(folder / 'coco' / f'{i}.png'), picture)
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        boxes.append(dict(id=i, image_id=i, category_id=1, bbox=[8 * i, 10, 30, 30], area=900,
                          iscrowd=0))
    (folder / 'coco' / 'boxes.json').write_text(json.dumps(dict(
        images=images, annotations=boxes, categories=[dict(id=1, name='square')])))
    return folder


def run(name, *args, folder):
    path = f'{folder}:{Path(__file__).parent}'
    result = run_tool(name, *args, cwd=folder, env={'PYTHONPATH': path})
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_detector_trains_resumes_and_tests(project):
    trained = run('train.py', 'detector.py', '--work-dir', 'out', '--cfg-options',
                  'train_cfg.max_epochs=1', folder=project)
    assert 'coco/bbox_mAP' in trained
    state = torch.load(project / 'out/epoch_1.pth', weights_only=True)
    assert any(key.startswith('backbone.layers.2.') for key in state['state_dict'])
    resumed = run('train.py', 'detector.py', '--work-dir', 'out', '--resume', folder=project)
    assert re.search(r'Epoch\(train\) +\[2\]', resumed)
    assert not re.search(r'Epoch\(train\) +\[1\]', resumed)
    tested = run('test.py', 'detector.py', 'out/epoch_2.pth', folder=project)
    maps = [re.findall(r'coco/bbox_mAP: (\S+)', log)[-1] for log in (resumed, tested)]
    assert maps[0] == maps[1]
