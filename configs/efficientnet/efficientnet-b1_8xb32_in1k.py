# For evaluation: its schedule is a placeholder. Train with the config named 8xb256-paper.
_base_ = ['../_base_/models/efficientnet.py', '../_base_/datasets/imagenet_bs32.py',
          '../_base_/schedules/imagenet_bs256_sgd.py', '../_base_/default_runtime.py']

model = dict(backbone=dict(arch='b1'), head=dict(arch='b1'))
train_pipeline = [dict(type='mmeffnet.LoadRandomCrop', scale=240, flip_prob=0.5),
                  dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'),
                 dict(type='EfficientNetCenterCrop', crop_size=240), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
