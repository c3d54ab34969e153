# Depth 1.4, width 1.2, resolution 1.3, as in table 3 of the paper. Not trained here.
_base_ = './resnet50_in1k.py'

model = dict(
    backbone=dict(stem_channels=80, base_channels=80, stage_blocks=(5, 6, 9, 5)),
    head=dict(in_channels=2560))
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=291, flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=291),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
