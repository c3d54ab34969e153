# Progressive learning: images of growing size with regularisation that grows along. The first three
# quarters of the training cost less, in all 64 % of the paper's multiply-adds. Published by Tan and
# Le (EfficientNetV2, ICML 2021) as faster and more accurate than plain training, for B4 and B5
# too; not reproduced here.
_base_ = './efficientnet-b0_8xb256-paper_in1k.py'

_stages = [
    dict(size=128, magnitude=5, mixup=0.),
    dict(size=160, magnitude=8, mixup=0.067),
    dict(size=192, magnitude=12, mixup=0.133),
    dict(size=224, magnitude=15, mixup=0.2),
]
_pipelines = [[
    dict(type='mmeffnet.LoadRandomCrop', scale=stage['size'], flip_prob=0.5),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10,
         magnitude_level=stage['magnitude'], magnitude_std=0.5, hparams=dict(pad_val=128)),
    dict(type='PackInputs'),
] for stage in _stages]

data_preprocessor = dict(to_onehot=True)  # which mixup mixes
train_dataloader = dict(dataset=dict(pipeline=_pipelines[0]))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SwitchRecipeHook', schedule=[
        dict(action_epoch=epoch, train_pipeline=pipeline, batch_augments=dict(
            augments=dict(type='Mixup', alpha=stage['mixup'])))
        for epoch, pipeline, stage in zip((89, 176, 264), _pipelines[1:], _stages[1:])]),
]
del _stages, _pipelines
