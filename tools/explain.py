#!/usr/bin/env python
"""Show where networks look: tools/explain.py IMAGE [--help for the flags]."""
import os
import sys

# Before PyTorch is loaded, as in tools/test.py: waiting threads spin briefly, then sleep.
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

from mmeffnet.inference import cli, run  # noqa: E402

if __name__ == '__main__':
    sys.exit(run.explain(cli.explain_parser().parse_args()))
