# For the weights efficientnet-b3_torchvision-v1_in1k: torchvision://efficientnet_b3.imagenet1k_v1
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-b3_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=320, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=300),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
