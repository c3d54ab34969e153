# For the weights efficientnet-b5_timm-sw_in12k: timm://efficientnet_b5.sw_in12k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-b5_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
    head=dict(num_classes=11821),
)
data_preprocessor = dict(
    num_classes=11821)
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=416, flip_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=437, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=416),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
