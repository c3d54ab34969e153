# For the weights efficientnet-lite3_timm-tf_in1k: timm://tf_efficientnet_lite3.in1k
# Written by tools/make_metafiles.py.
_base_ = '../efficientnet-lite3_8xb32_in1k.py'

train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=300, flip_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=331, edge='short', backend='pillow', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=300),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
