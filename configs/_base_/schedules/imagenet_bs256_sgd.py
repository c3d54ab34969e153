# A placeholder: plain SGD, as in mmpretrain. It does not train EfficientNet to its published
# accuracy: that recipe is in the configs named `-paper`.
optim_wrapper = dict(
    type='mmeffnet.AmpOptimWrapper',  # bfloat16 where the device computes it
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001))

param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for 8 devices with 32 images each; see --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=256)
