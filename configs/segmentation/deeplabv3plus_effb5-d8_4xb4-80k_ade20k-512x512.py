# DeepLabV3+ on B5 at output stride 8: mmseg's schedule and data.
_base_ = __import__('mmeffnet').config_path(
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py')

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b5', out_indices=(2, 3, 4, 5),
        output_stride=8,
        drop_path_rate=0.2, norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b5.aa_in1k')),
    decode_head=dict(in_channels=512, c1_in_channels=40, dilations=(1, 12, 24, 36)),
    auxiliary_head=dict(in_channels=176))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
