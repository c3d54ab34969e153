"""The version, and how the package is installed with a stack to run on."""
__version__ = '0.1.0'

INSTALL_COMMAND = ('pip install "mmeffnet[openmmlab]" (official OpenMMLab packages) or '
                   'pip install "mmeffnet[onedl]" (the maintained forks)')

# How to get a package that only some of our classes need.
DETECTION = 'pip install "mmeffnet[detection]"'
EXTRAS = {
    'mmcv': 'python tools/build_operators.py (some minutes; see docs/downstream.md)',
    'mmdet': f'{DETECTION} (in an environment without the official mmengine and mmcv)',
    'mmseg': 'pip install "mmeffnet[segmentation]" (in an environment without the official '
             'mmengine and mmcv)',
    'skimage': 'pip install scikit-image',
}
