# RetinaNet on B0, from random weights, finds and reads handwritten digits on photographs: shows
# in minutes, on two CPU cores and without any download, that a detector trains.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py',
          '../_base_/datasets/digit_scenes_coco.py', '../_base_/default_runtime.py']

# Digits of 20 to 44 px: three levels, and anchors of 24 px and up. BatchNorm's running
# statistics would lag behind in so few steps at momentum 0.01.
_strides = [8, 16, 32]
_norm = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b0', out_indices=(3, 4, 5),
        norm_cfg=dict(type='BN', momentum=0.1)),
    neck=dict(in_channels=[40, 112, 320], out_channels=64, start_level=0, num_outs=3,
              norm_cfg=_norm),
    bbox_head=dict(
        num_classes=10, in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=_norm,
        anchor_generator=dict(octave_base_scale=3, strides=_strides)))
del _strides, _norm

optim_wrapper = dict(
    type='mmeffnet.AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=75, by_epoch=False),
    dict(type='CosineAnnealingLR', end=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=5, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=8)

default_scope = 'mmdet'
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(save_best='coco/bbox_mAP_50'),
    visualization=dict(_delete_=True, type='DetVisualizationHook'),
    sheet=dict(type='mmeffnet.PredictionSheetHook'))
randomness = dict(seed=0)
