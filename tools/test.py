#!/usr/bin/env python
"""Test a model: tools/test.py CONFIG CHECKPOINT [--help for the flags]."""
import mmeffnet  # noqa: F401  (first: configs may inherit ours by name)
from mmeffnet.engine import cli, run

if __name__ == '__main__':
    run.test(cli.parse(cli.test_parser()))
