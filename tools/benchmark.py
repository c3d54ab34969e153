#!/usr/bin/env python
"""Speed, memory and traffic beside other libraries: tools/benchmark.py [--help for the flags]."""
from mmeffnet.analysis.speed_cli import main

if __name__ == '__main__':
    main()
