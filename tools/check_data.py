#!/usr/bin/env python
"""Look through a data set before a long run: tools/check_data.py DATA [--help for the flags]."""
import sys

from mmeffnet.engine.check_data import main

if __name__ == '__main__':
    sys.exit(main())
