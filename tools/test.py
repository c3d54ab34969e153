#!/usr/bin/env python
"""Test a model: tools/test.py CONFIG CHECKPOINT [--help for the flags]."""
from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.engine import cli, run  # noqa: E402

if __name__ == '__main__':
    run.test(cli.parse(cli.test_parser()))
