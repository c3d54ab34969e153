# RetinaNet on EdgeTPU-S, whose input runs from -1 to 1.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='es', out_indices=(3, 4, 5),
        drop_path_rate=0.2, frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_es.in1k')),
    neck=dict(in_channels=[48, 144, 192], start_level=0))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
