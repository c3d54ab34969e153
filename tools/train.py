#!/usr/bin/env python
"""Train a model: tools/train.py CONFIG [--help for the flags]."""
import mmeffnet  # noqa: F401  (first: configs may inherit ours by name)
from mmeffnet.engine import cli, run

if __name__ == '__main__':
    run.train(cli.parse(cli.train_parser()))
