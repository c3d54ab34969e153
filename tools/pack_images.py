#!/usr/bin/env python
"""Decode a data set once: tools/pack_images.py CONFIG --out FOLDER [--help for the flags]."""
import sys

from mmeffnet.engine.archive_cli import pack

if __name__ == '__main__':
    sys.exit(pack())
