# As efficientnet-lite0_custom.py, from NoisyStudent B0, which timm downloads:
# pip install "mmeffnet[timm]".
_base_ = './efficientnet-lite0_custom.py'

model = dict(
    backbone=dict(arch='b0', init_cfg=dict(
        checkpoint='mmeffnet://efficientnet-b0_timm-tf-ns-jft_in1k')),
    head=dict(arch='b0'))
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
