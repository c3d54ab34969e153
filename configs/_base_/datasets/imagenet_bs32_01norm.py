# ImageNet for weights that take input in -1..1: EdgeTPU, Lite and AdvProp.
_base_ = './imagenet_bs32.py'

data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
