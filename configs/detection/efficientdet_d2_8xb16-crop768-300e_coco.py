# EfficientDet-D2 as in the paper.
_base_ = './efficientdet_d0_8xb16-crop512-300e_coco.py'

model = dict(
    backbone=dict(arch='b2', init_cfg=dict(
        checkpoint='timm://tf_efficientnet_b2.aa_in1k')),
    neck=dict(in_channels=[48, 120, 352], out_channels=112, repeats=5),
    bbox_head=dict(in_channels=112, stacked_convs=3))

_train, _test = _base_.train_pipeline, _base_.test_pipeline
_train[2].scale = _train[3].crop_size = _test[1].scale = (768, 768)
train_dataloader = dict(dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = val_dataloader
del _train, _test
