# Depth 4, as in table 3 of the paper (docs/scaling.md). Not trained here.
_base_ = './mobilenet-v2_in1k.py'

model = dict(
    backbone=dict(scaling=dict(type='mmeffnet.ModelScaling', depth=4)),
    head=dict(in_channels=1280))
