#!/usr/bin/env python
"""Say what is on pictures: tools/predict.py IMAGE|FOLDER... [--help for the flags]."""
import os
import sys

# Before PyTorch is loaded, as in tools/test.py: waiting threads spin briefly, then sleep.
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

from mmeffnet.inference import cli, run  # noqa: E402

if __name__ == '__main__':
    sys.exit(run.predict(cli.predict_parser().parse_args()))
