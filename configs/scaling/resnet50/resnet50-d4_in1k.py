# Depth 4, as in table 3 of the paper (docs/scaling.md). Not trained here.
_base_ = './resnet50_in1k.py'

model = dict(
    backbone=dict(stage_blocks=(12, 16, 24, 12)))
