# Resolution 2, as in table 3 of the paper (docs/scaling.md). Not trained here.
_base_ = './resnet50_in1k.py'

train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=448, flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=448),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
