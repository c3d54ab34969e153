#!/usr/bin/env python
"""Train a model: tools/train.py CONFIG [--help for the flags]."""
from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.engine import cli, run  # noqa: E402

if __name__ == '__main__':
    run.train(cli.parse(cli.train_parser()))
