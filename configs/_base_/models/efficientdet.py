# EfficientDet-D0; the configs of the others change its numbers. BatchNorm is synchronised, as in
# the paper.
_norm = dict(type='SyncBN')
model = dict(
    type='mmeffnet.EfficientDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_size_divisor=128),
    backbone=dict(
        type='mmeffnet.EfficientNet', arch='b0', out_indices=(3, 4, 5), drop_path_rate=0.2,
        norm_cfg=_norm,
        init_cfg=dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b0.aa_in1k')),
    neck=dict(
        type='mmeffnet.BiFPN', in_channels=[40, 112, 320], out_channels=64, num_outs=5, repeats=3,
        fusion='fast', norm_cfg=_norm),
    bbox_head=dict(
        type='mmeffnet.EfficientDetHead', num_classes=80, in_channels=64, stacked_convs=3,
        norm_cfg=_norm, anchor_generator=dict(
            type='mmeffnet.EfficientDetAnchorGenerator', strides=[8, 16, 32, 64, 128],
            anchor_scale=4.0)),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0,
                      gt_max_assign_all=False, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=5000, min_bbox_size=0, score_thr=0.05, max_per_img=100,
        nms=dict(type='soft_nms', iou_threshold=0.3, sigma=0.5, min_score=1e-3,
                 method='gaussian')))
del _norm
