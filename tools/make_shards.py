#!/usr/bin/env python
"""Write tar files: tools/make_shards.py CONFIG --out FOLDER [--help for the flags]."""
import sys

from mmeffnet.engine.archive_cli import shard

if __name__ == '__main__':
    sys.exit(shard())
