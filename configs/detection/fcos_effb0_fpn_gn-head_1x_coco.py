# FCOS on B0: the base is for Caffe weights, whose input is another.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b0', out_indices=(3, 4, 5),
        drop_path_rate=0.2, frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b0.aa_in1k')),
    neck=dict(in_channels=[40, 112, 320], start_level=0))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
