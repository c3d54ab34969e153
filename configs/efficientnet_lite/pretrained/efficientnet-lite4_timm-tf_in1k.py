# For the weights efficientnet-lite4_timm-tf_in1k: timm://tf_efficientnet_lite4.in1k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-lite4_8xb32_in1k.py'

train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=380, flip_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=413, edge='short', backend='pillow', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=380),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
