#!/usr/bin/env python
"""Draw several runs together: tools/compare_runs.py RUN [RUN ...] [--help for the flags]."""
from mmeffnet.engine.comparison import main

if __name__ == '__main__':
    main()
