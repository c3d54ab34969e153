# For the weights efficientnet-es_timm-pruned_in1k: timm://efficientnet_es_pruned.in1k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-es_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
)
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
