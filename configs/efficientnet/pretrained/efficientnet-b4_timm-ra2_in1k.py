# For the weights efficientnet-b4_timm-ra2_in1k: timm://efficientnet_b4.ra2_in1k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-b4_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
)
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=384, flip_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=384, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=384),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
