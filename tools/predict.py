#!/usr/bin/env python
"""Say what is on pictures: tools/predict.py IMAGE|FOLDER... [--help for the flags]."""
import sys

from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.inference import cli, run  # noqa: E402

if __name__ == '__main__':
    sys.exit(run.predict(cli.predict_parser().parse_args()))
