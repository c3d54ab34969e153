#!/usr/bin/env python
"""Scale a network to a phi, to factors or to a target: tools/scale.py [--help for the flags]."""
from mmeffnet.analysis.scale_cli import main

if __name__ == '__main__':
    main()
