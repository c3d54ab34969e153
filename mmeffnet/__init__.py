"""EfficientNet and compound scaling for MMEngine, mmpretrain, mmdet and mmseg.

Importing the package registers its names with MMEngine and loads no model code and no
PyTorch: classes are imported when they are first used.
"""
import importlib
import warnings

from mmeffnet.version import __version__

# Public names and the module each one lives in.
_PUBLIC = {
    'Arch': 'mmeffnet.arch',
    'Stage': 'mmeffnet.arch',
    'ModelScaling': 'mmeffnet.scaling',
    'VARIANTS': 'mmeffnet.variants',
    'Variant': 'mmeffnet.variants',
    'get_variant': 'mmeffnet.variants',
    'config_path': 'mmeffnet.plugin',
    'EfficientNet': 'mmeffnet.models',
    'EfficientNetHead': 'mmeffnet.models',
}

__all__ = ['__version__', *_PUBLIC]

try:
    from mmeffnet import plugin  # noqa: F401  (registers scope and config names)
except ModuleNotFoundError as error:
    if error.name not in ('mmengine', 'torch'):
        raise
    # The torch-free modules work all the same, so this is no error yet.
    from mmeffnet.version import INSTALL_COMMAND
    warnings.warn(f'{error.name} is not installed; models and tools need it. '
                  f'Run: {INSTALL_COMMAND}', stacklevel=2)


def __getattr__(name):
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        if error.name.partition('.')[0] not in ('mmengine', 'mmcv', 'mmpretrain', 'torch'):
            raise
        from mmeffnet.version import INSTALL_COMMAND
        raise ImportError(f'mmeffnet.{name} needs {error.name}, which is not installed. '
                          f'Run: {INSTALL_COMMAND}') from error
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
