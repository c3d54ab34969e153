# With AutoAugment, the recipe of the reference TPU code. Not trained here.
_base_ = ['../_base_/models/efficientnet.py', '../_base_/datasets/imagenet_bs32.py',
          '../_base_/schedules/imagenet_bs2048_rmsprop.py', '../_base_/default_runtime.py']

model = dict(
    backbone=dict(arch='b5', drop_path_rate=0.2),
    head=dict(arch='b5', loss=dict(
        _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=456, flip_prob=0.5),
    dict(type='AutoAugment', policies='imagenet', hparams=dict(pad_val=128)),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=456),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=256, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
