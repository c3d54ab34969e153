# Width 2, as in table 3 of the paper (docs/scaling.md). Not trained here.
_base_ = './resnet50_in1k.py'

model = dict(
    backbone=dict(stem_channels=128, base_channels=128),
    head=dict(in_channels=4096))
