# Twenty epochs from trained weights: small steps, the smaller the nearer to the image.
optim_wrapper = dict(
    type='mmeffnet.AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    constructor='LearningRateDecayOptimWrapperConstructor',
    # The head learns at lr, the head convolution at 0.7 lr, and so on to the stem.
    paramwise_cfg=dict(layer_decay_rate=0.7, norm_decay_mult=0., bias_decay_mult=0.),
    clip_grad=dict(max_norm=5.0))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=20, convert_to_iter_based=True),
]

custom_hooks = [dict(type='EMAHook', ema_type='mmeffnet.RampedAverage', decay=0.999)]

train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for one device with 32 images; see --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=32)
