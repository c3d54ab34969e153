#!/usr/bin/env python
"""Accuracy over cost, scaled one way or all ways: tools/scaling_curves.py [--help]."""
from mmeffnet.analysis.curves_cli import main

if __name__ == '__main__':
    main()
