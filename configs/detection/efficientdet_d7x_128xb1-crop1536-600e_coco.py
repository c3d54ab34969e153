# EfficientDet-D7x: B7 and a sixth level, trained twice as long.
_base_ = './efficientdet_d0_8xb16-crop512-300e_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=256),
    backbone=dict(arch='b7', init_cfg=dict(
        checkpoint='timm://tf_efficientnet_b7.aa_in1k')),
    neck=dict(in_channels=[80, 224, 640], out_channels=384, repeats=8, num_outs=6,
              fusion='sum'),
    bbox_head=dict(in_channels=384, stacked_convs=5,
                   anchor_generator=dict(strides=[8, 16, 32, 64, 128, 256])))

_train, _test = _base_.train_pipeline, _base_.test_pipeline
_train[2].scale = _train[3].crop_size = _test[1].scale = (1536, 1536)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = val_dataloader
del _train, _test

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=600, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=600)
