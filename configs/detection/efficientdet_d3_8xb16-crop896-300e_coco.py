# EfficientDet-D3 as in the paper.
_base_ = './efficientdet_d0_8xb16-crop512-300e_coco.py'

model = dict(
    backbone=dict(arch='b3', init_cfg=dict(
        checkpoint='timm://tf_efficientnet_b3.aa_in1k')),
    neck=dict(in_channels=[48, 136, 384], out_channels=160, repeats=6),
    bbox_head=dict(in_channels=160, stacked_convs=4))

_train, _test = _base_.train_pipeline, _base_.test_pipeline
_train[2].scale = _train[3].crop_size = _test[1].scale = (896, 896)
train_dataloader = dict(dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = val_dataloader
del _train, _test
