#!/usr/bin/env python
"""What training each network asks of devices, network and storage (docs/scaling-out.md)."""
import argparse

from mmeffnet.analysis.scaling_out import print_table
from mmeffnet.errors import one_line_errors

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('arch', nargs='*', help='variants, all of them by default')
    parser.add_argument('--devices', type=int, default=8, help='how many sum their gradients')
    with one_line_errors():
        print_table(parser.parse_args())
