#!/usr/bin/env python
"""Search alpha, beta and gamma by short trainings: tools/search_coefficients.py [--help]."""
from mmeffnet.analysis.search_cli import main

if __name__ == '__main__':
    main()
