#!/usr/bin/env python
"""Write weights of any library as a clean file: tools/convert.py SRC DST [--check] [--to NAME]."""
from mmeffnet.engine.convert import main

if __name__ == '__main__':
    main()
