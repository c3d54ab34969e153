# MobileNetV2 described as stages, so that it can be scaled. The schedule is a placeholder.
_base_ = ['../../_base_/datasets/imagenet_bs32.py', '../../_base_/schedules/imagenet_bs256_sgd.py',
          '../../_base_/default_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmeffnet.EfficientNet', arch=dict(
        stem=32, head=1280, activation='ReLU6', padding='symmetric', stages=[
            dict(block='mbconv', kernel=3, stride=1, expand=1, channels=16, repeats=1),
            dict(block='mbconv', kernel=3, stride=2, expand=6, channels=24, repeats=2),
            dict(block='mbconv', kernel=3, stride=2, expand=6, channels=32, repeats=3),
            dict(block='mbconv', kernel=3, stride=2, expand=6, channels=64, repeats=4),
            dict(block='mbconv', kernel=3, stride=1, expand=6, channels=96, repeats=3),
            dict(block='mbconv', kernel=3, stride=2, expand=6, channels=160, repeats=3),
            dict(block='mbconv', kernel=3, stride=1, expand=6, channels=320, repeats=1)])),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='mmeffnet.EfficientNetHead', in_channels=1280, dropout=0.2, num_classes=1000,
              topk=(1, 5)))
