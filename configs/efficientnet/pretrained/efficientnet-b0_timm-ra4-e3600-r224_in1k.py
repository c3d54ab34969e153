# For the weights efficientnet-b0_timm-ra4-e3600-r224_in1k: timm://efficientnet_b0.ra4_e3600_r224_in1k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-b0_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
)
data_preprocessor = dict(
    mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=256, flip_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=256),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
