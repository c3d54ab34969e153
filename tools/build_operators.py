#!/usr/bin/env python
"""Compile the operators of mmcv: tools/build_operators.py [--help for the flags]."""
from mmeffnet.engine.operators import main

if __name__ == '__main__':
    main()
