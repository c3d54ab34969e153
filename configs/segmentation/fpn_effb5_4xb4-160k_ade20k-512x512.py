# Semantic FPN on B5: mmseg's schedule and data.
_base_ = __import__('mmeffnet').config_path(
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py')

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b5', out_indices=(2, 3, 4, 5),
        drop_path_rate=0.2, norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b5.aa_in1k')),
    neck=dict(in_channels=[40, 64, 176, 512]))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
