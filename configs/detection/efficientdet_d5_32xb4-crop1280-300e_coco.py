# EfficientDet-D5 as in the paper.
_base_ = './efficientdet_d0_8xb16-crop512-300e_coco.py'

model = dict(
    backbone=dict(arch='b5', init_cfg=dict(
        checkpoint='timm://tf_efficientnet_b5.aa_in1k')),
    neck=dict(in_channels=[64, 176, 512], out_channels=288, repeats=7),
    bbox_head=dict(in_channels=288, stacked_convs=4))

_train, _test = _base_.train_pipeline, _base_.test_pipeline
_train[2].scale = _train[3].crop_size = _test[1].scale = (1280, 1280)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = val_dataloader
del _train, _test
