# L2 with weights, optimizer state and averages split over all devices (docs/scaling-out.md). The
# published L2 learned from 300 million images that are not public (NoisyStudent); this is the
# paper's recipe on ImageNet alone. Not trained here.
_base_ = ['../_base_/models/efficientnet.py', '../_base_/datasets/imagenet_bs32.py',
          '../_base_/schedules/imagenet_bs2048_rmsprop.py', '../_base_/default_runtime.py']

runner_type = 'mmeffnet.ShardedRunner'
strategy = dict(type='mmeffnet.ShardedStrategy')

# with_cp: activations, not weights, take most of the memory; blocks are computed once more in
# the backward pass. SyncBN: statistics of 16 images would be rough. 475 pixels are the smaller of
# the two sizes that published L2 weights are for.
model = dict(
    backbone=dict(arch='l2', drop_path_rate=0.2, with_cp=True, norm_cfg=dict(type='SyncBN')),
    head=dict(arch='l2', loss=dict(
        _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))
train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=475, flip_prob=0.5),
    dict(type='AutoAugment', policies='imagenet', hparams=dict(pad_val=128)),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=475),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The learning rate of the base is for 2048 images: use --auto-scale-lr.
