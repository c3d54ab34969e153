# ImageNet-1k in folders of classes, or with meta/{train,val}.txt. The folder is data/imagenet
# here, or what the environment variable IMAGENET names.
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],  # RGB, 0..255
    std=[58.395, 57.12, 57.375],
    to_rgb=True,  # images are read as BGR
)

train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=224, flip_prob=0.5),  # bicubic, area 0.08 to 1
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=224),  # bicubic, side r / (r + 32)
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=5,
    persistent_workers=True,
    dataset=dict(
        type='ImageNet',
        data_root='{{$IMAGENET:data/imagenet}}',
        split='train',
        pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=5,
    persistent_workers=True,
    dataset=dict(
        type='ImageNet',
        data_root='{{$IMAGENET:data/imagenet}}',
        split='val',
        pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# A copy, as MMEngine merges: a child that changes one has to change the other too.
test_dataloader = val_dataloader

val_evaluator = dict(type='mmeffnet.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
