# For the weights efficientnet-b1_torchvision-v2_in1k: torchvision://efficientnet_b1.imagenet1k_v2
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-b1_8xb32_in1k.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05)),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=255, edge='short', backend='pillow', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=240),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
