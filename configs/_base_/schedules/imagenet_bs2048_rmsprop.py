# The reference recipe of the TPU code, for batches of 2048. Its pieces are tested against
# TensorFlow's rule and the formula (tests/optim); no training of 350 epochs was run here.
optim_wrapper = dict(
    type='mmeffnet.AmpOptimWrapper',  # bfloat16 where the device computes it
    optimizer=dict(
        type='mmeffnet.RMSpropTF',
        lr=0.128,  # 0.016 for each 256 images
        alpha=0.9,
        momentum=0.9,
        eps=1e-3,
        weight_decay=1e-5),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))

param_scheduler = dict(
    type='mmeffnet.StaircaseLR', by_epoch=True, convert_to_iter_based=True,
    warmup=5, step=2.4, gamma=0.97)

# The averaged weights are evaluated and saved. `decay` is TensorFlow's, 1 - MMEngine's momentum.
custom_hooks = [dict(type='EMAHook', ema_type='mmeffnet.RampedAverage', decay=0.9999)]

train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for 8 devices with 256 images each; see --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=2048)
