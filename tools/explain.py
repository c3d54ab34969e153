#!/usr/bin/env python
"""Show where networks look: tools/explain.py IMAGE [--help for the flags]."""
import sys

from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.inference import cli, run  # noqa: E402

if __name__ == '__main__':
    sys.exit(run.explain(cli.explain_parser().parse_args()))
