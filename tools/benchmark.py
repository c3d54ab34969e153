#!/usr/bin/env python
"""Speed, memory and traffic beside other libraries: tools/benchmark.py [--help for the flags]."""
from mmeffnet import host

host.wait_briefly()  # before PyTorch is imported

from mmeffnet.analysis.speed_cli import main  # noqa: E402

if __name__ == '__main__':
    main()
