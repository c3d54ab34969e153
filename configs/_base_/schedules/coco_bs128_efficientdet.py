# The schedule of EfficientDet's paper for batches of 128; no training on COCO was run here.
optim_wrapper = dict(
    type='mmeffnet.AmpOptimWrapper',  # bfloat16 where the device computes it
    optimizer=dict(type='SGD', lr=0.16, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., bypass_duplicate=True),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=300, convert_to_iter_based=True),
]
# `decay` is TensorFlow's, 1 - MMEngine's momentum.
custom_hooks = [dict(type='EMAHook', ema_type='mmeffnet.RampedAverage', decay=0.9998),
                dict(type='mmeffnet.PyramidCheckHook')]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
