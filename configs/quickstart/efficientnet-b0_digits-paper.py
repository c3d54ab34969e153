# The paper's recipe in small, on 1,797 handwritten digits: every piece of the schedule for ImageNet
# runs here within minutes. docs/training.md has the curve to expect and a comparison with others.
_base_ = ['../_base_/models/efficientnet.py', '../_base_/datasets/digits_bs32.py',
          '../_base_/schedules/imagenet_bs2048_rmsprop.py', '../_base_/default_runtime.py']

# 219,000 steps become 540: BatchNorm's running statistics would lag behind at the momentum 0.01 of
# ImageNet, and evaluation with them. timm's networks train with 0.1 too.
model = dict(
    backbone=dict(drop_path_rate=0.2, norm_cfg=dict(type='BN', momentum=0.1)),
    head=dict(num_classes=10, loss=dict(
        _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))

# 350 epochs become 12: a stair is 2.4 x 12 / 350 epochs high.
optim_wrapper = dict(optimizer=dict(lr=0.002))  # 0.016 for each 256 images
param_scheduler = dict(warmup=1, step=0.0823)
train_cfg = dict(max_epochs=12)
auto_scale_lr = dict(base_batch_size=32)

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best='accuracy/top1'))
randomness = dict(seed=0)
