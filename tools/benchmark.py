#!/usr/bin/env python
"""Speed, memory and traffic beside other libraries: tools/benchmark.py [--help for the flags]."""
import os

# Before PyTorch is loaded, as in tools/train.py: waiting threads spin briefly, then sleep.
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

from mmeffnet.analysis.speed_cli import main  # noqa: E402

if __name__ == '__main__':
    main()
