"""Pictures with an annotation file as COCO has them, and a small detector for them."""
import json

import numpy as np
from PIL import Image

# Height and width, and boxes, one of them hanging over the border and one around everything.
PICTURES = [((64, 64), [[5, 5, 30, 30]]), ((40, 90), []), ((90, 33), [[-4, 60, 20, 50]]),
            ((1, 1), []), ((70, 70), [[0, 0, 70, 70], [69, 69, 1, 1]]), ((1, 1), [[0, 0, 1, 1]])]
# Of small detectors: the backbone, with maps of 8 and 16 channels at strides 4 and 8.
BACKBONE = '''
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='mmeffnet.EfficientNet', out_indices=(1, 2),
    arch=dict(stem=8, head=16, stages=dict(
        a=dict(block='fused', kernel=3, stride=2, expand=2, channels=8, repeats=1),
        b=dict(block='mbconv', kernel=3, stride=2, expand=2, channels=16, repeats=1)))))
'''
CONFIG = BACKBONE + '''
model.update(
    neck=dict(in_channels=[8, 16], out_channels=16, start_level=0, num_outs=3),
    bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
                   anchor_generator=dict(strides=[4, 8, 16])),
    test_cfg=dict(score_thr=0.0))
_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
             dict(type='Resize', scale_factor=1.0), dict(type='PackDetInputs', meta_keys=(
                 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
_data = dict(dataset=dict(data_root='coco/', ann_file='boxes.json', data_prefix=dict(img=''),
                          metainfo=dict(classes=('square', 'circle')), pipeline=_pipeline),
             num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=%d, batch_sampler=None, **_data)
train_dataloader['dataset'].update(filter_cfg=dict(filter_empty_gt=False, min_size=0))
val_dataloader = _data
test_dataloader = _data
val_evaluator = dict(ann_file='coco/boxes.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
'''


def content(pictures=PICTURES):
    """What an annotation file holds: squares in the first classes."""
    images = [dict(id=i, file_name=f'{i}.png', height=h, width=w)
              for i, ((h, w), _) in enumerate(pictures)]
    boxes = [dict(image_id=i, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
             for i, (_, some) in enumerate(pictures) for box in some]
    return dict(images=images, annotations=[dict(id=i + 1, **box) for i, box in enumerate(boxes)],
                categories=[dict(id=1, name='square'), dict(id=5, name='circle')])


def write(folder, change=lambda made: None):
    """Write pictures and an annotation file that ``change`` has been made to: the folder."""
    folder.mkdir()
    for i, ((h, w), _) in enumerate(PICTURES):
        Image.fromarray(np.full((h, w, 3), 40 * i, np.uint8)).save(folder / f'{i}.png')
    made = content()
    change(made)
    (folder / 'boxes.json').write_text(json.dumps(made))
    return folder
