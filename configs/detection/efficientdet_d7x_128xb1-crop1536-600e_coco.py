# EfficientDet-D7x: B7 and a sixth level, trained twice as long.
_base_ = ['mmdet::_base_/datasets/coco_detection.py', 'mmdet::_base_/default_runtime.py',
          '../_base_/models/efficientdet.py', '../_base_/schedules/coco_bs128_efficientdet.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=256),
    backbone=dict(arch='b7', init_cfg=dict(
        checkpoint='timm://tf_efficientnet_b7.aa_in1k')),
    neck=dict(in_channels=[80, 224, 640], out_channels=384, repeats=8, num_outs=6,
              fusion='sum'),
    bbox_head=dict(in_channels=384, stacked_convs=5,
                   anchor_generator=dict(strides=[8, 16, 32, 64, 128, 256])))

_size = (1536, 1536)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                          'scale_factor')),
]
train_dataloader = dict(batch_size=1, num_workers=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=600, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=600)
del _size
