#!/usr/bin/env python
"""Train a model: tools/train.py CONFIG [--help for the flags]."""
import os

# Before PyTorch is loaded: a CPU thread that waits for the others shall spin for some
# microseconds and then sleep, which other work on the machine disturbs less
# (docs/benchmarks.md).
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

import mmeffnet  # noqa: E402, F401  (early: configs may inherit ours by name)
from mmeffnet.engine import cli, run  # noqa: E402

if __name__ == '__main__':
    run.train(cli.parse(cli.train_parser()))
