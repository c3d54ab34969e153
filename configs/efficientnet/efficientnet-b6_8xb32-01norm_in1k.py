# For evaluation: its schedule is a placeholder. Train with the config named 8xb256-paper.
# For the AdvProp weights, which take input in -1..1.
_base_ = './efficientnet-b6_8xb32_in1k.py'

data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
