# DeepLabV3+ on B3 at output stride 16: mmseg's schedule and data.
_base_ = __import__('mmeffnet').config_path(
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py')

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True, type='mmeffnet.EfficientNet', arch='b3', out_indices=(2, 3, 4, 5),
        output_stride=16,
        drop_path_rate=0.2, norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b3.aa_in1k')),
    decode_head=dict(in_channels=384, c1_in_channels=32, dilations=(1, 6, 12, 18)),
    auxiliary_head=dict(in_channels=136))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
