# ResNet-50 whose width and depth are arguments. The schedule is a placeholder.
_base_ = ['../../_base_/datasets/imagenet_bs32.py', '../../_base_/schedules/imagenet_bs256_sgd.py',
          '../../_base_/default_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmeffnet.ScaledResNet', stage_blocks=(3, 4, 6, 3)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=2048, num_classes=1000, topk=(1, 5),
              loss=dict(type='CrossEntropyLoss')))
