"""EfficientNet and compound scaling for MMEngine, mmpretrain, mmdet and mmseg.

Importing the package registers its names with MMEngine and loads no model code and no
PyTorch: classes are imported when they are first used.
"""
import importlib
import importlib.util
import warnings

from mmeffnet.version import INSTALL_COMMAND, __version__

# Public names and the module each one lives in.
_PUBLIC = {
    'Arch': 'mmeffnet.arch',
    'Stage': 'mmeffnet.arch',
    'ModelScaling': 'mmeffnet.scaling',
    'VARIANTS': 'mmeffnet.variants',
    'Variant': 'mmeffnet.variants',
    'get_variant': 'mmeffnet.variants',
    'feature_info': 'mmeffnet.features',
    'check_model': 'mmeffnet.pyramid',
    'complexity': 'mmeffnet.analysis.complexity',
    'config_path': 'mmeffnet.plugin',
    'EfficientNet': 'mmeffnet.models',
    'EfficientNetHead': 'mmeffnet.models',
    'load_weights': 'mmeffnet.weights',
    'predict': 'mmeffnet.inference.predictor',
    'Predictor': 'mmeffnet.inference.predictor',
    'explain': 'mmeffnet.inference.maps',
}

__all__ = ['__version__', *_PUBLIC]

_missing = [name for name in ('mmengine', 'torch') if importlib.util.find_spec(name) is None]
if _missing:
    # The torch-free modules work all the same, so this is no error yet.
    warnings.warn(f'{_missing[0]} is not installed; models and tools need it. '
                  f'Run: {INSTALL_COMMAND}', stacklevel=2)
if 'mmengine' not in _missing:
    from mmeffnet import plugin  # noqa: F401  (registers scope and config names)
    from mmeffnet.weights import hub
    hub.register()


def __getattr__(name):
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        package = error.name.partition('.')[0]
        if package not in ('mmengine', 'mmcv', 'mmpretrain', 'torch'):
            raise
        raise ImportError(f'mmeffnet.{name} needs {package}, which is not installed. '
                          f'Run: {INSTALL_COMMAND}') from error
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
