# For evaluation: its schedule is a placeholder.
# For the NoisyStudent weights that are evaluated at 475 pixels.
_base_ = './efficientnet-l2_8xb32_in1k.py'

train_pipeline = [dict(type='mmeffnet.LoadRandomCrop', scale=475, flip_prob=0.5),
                  dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'),
                 dict(type='EfficientNetCenterCrop', crop_size=475), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
