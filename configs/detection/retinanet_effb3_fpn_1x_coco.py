# RetinaNet on B3: mmdet's schedule, statistics of BatchNorm as pretrained.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b3', out_indices=(3, 4, 5),
        drop_path_rate=0.2, frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b3.aa_in1k')),
    neck=dict(in_channels=[48, 136, 384], start_level=0))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
