# UPerNet on B0: mmseg's schedule and data.
_base_ = __import__('mmeffnet').config_path(
    'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py')

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b0', out_indices=(2, 3, 4, 5),
        drop_path_rate=0.2, norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b0.aa_in1k')),
    decode_head=dict(in_channels=[24, 40, 112, 320]),
    auxiliary_head=dict(in_channels=112))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
