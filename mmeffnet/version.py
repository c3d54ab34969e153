"""The version, and how the package is installed with a stack to run on."""
__version__ = '0.1.0'

INSTALL_COMMAND = ('pip install "mmeffnet[openmmlab]" (official OpenMMLab packages) or '
                   'pip install "mmeffnet[onedl]" (the maintained forks)')

# How to get a package that only some of our classes need.
EXTRAS = {
    'mmcv': 'pip install "mmeffnet[detection]" and python tools/build_operators.py',
    'mmdet': 'pip install "mmeffnet[detection]" and python tools/build_operators.py',
    'mmseg': 'pip install "mmeffnet[segmentation]"',
    'skimage': 'pip install scikit-image',
}
