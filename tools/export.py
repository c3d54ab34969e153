#!/usr/bin/env python
"""Export a classifier: tools/export.py CONFIG CHECKPOINT --format onnx [--help for the flags]."""
from mmeffnet.export.cli import main

if __name__ == '__main__':
    main()
