"""The version, and how the package is installed with a stack to run on."""
__version__ = '0.1.0'

INSTALL_COMMAND = ('pip install "mmeffnet[openmmlab]" (official OpenMMLab packages) or '
                   'pip install "mmeffnet[onedl]" (the maintained forks)')

# How to get a package that only some of our classes need.
EXTRAS = {
    'mmcv': 'the commands under "Compiled operators" in docs/downstream.md',
    'mmdet': 'pip install onedl-mmdetection (beside the extra "onedl")',
    'mmseg': 'pip install onedl-mmsegmentation ftfy regex (beside the extra "onedl")',
    'skimage': 'pip install scikit-image',
}
