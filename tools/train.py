#!/usr/bin/env python
"""Train a model: tools/train.py CONFIG [--help for the flags]."""
from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.engine import cli  # noqa: E402

if __name__ == '__main__':
    args = cli.parse(cli.train_parser())
    from mmeffnet.engine import run  # takes seconds: not for --help or a wrong flag
    run.train(args)
