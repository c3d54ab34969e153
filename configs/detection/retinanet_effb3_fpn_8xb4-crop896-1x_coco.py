# mmdet's own RetinaNet on B3 with crops of 896 px; the arguments of the backbone fit ours.
_base_ = 'mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py'

model = dict(backbone=dict(
    type='mmeffnet.EfficientNet', init_cfg=dict(
        _delete_=True, type='Pretrained', checkpoint='timm://tf_efficientnet_b3.aa_in1k')))
custom_hooks = [dict(type='mmeffnet.PyramidCheckHook')]
