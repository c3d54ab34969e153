"""mmpretrain's ``get_model`` and ``list_models`` know our names, in any order of imports.

Imports the standard library only; mmpretrain is never imported from here.
"""
from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import warnings

from mmeffnet.plugin import MIM

HUB = 'mmpretrain.apis.model'


def register() -> None:
    """Add our model index to mmpretrain's hub: now, or when mmpretrain is imported."""
    module = sys.modules.get(HUB)
    if hasattr(module, 'ModelHub'):
        add_models(module.ModelHub)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def add_models(hub) -> None:
    """Register the models of our index that the hub does not have."""
    try:
        hub.register_model_index(MIM / 'model-index.yml', config_prefix=MIM)
    except ValueError as error:  # a name that is somebody else's already stays theirs
        warnings.warn(f'mmeffnet: {error}', stacklevel=2)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Waits for the module of the hub: mmpretrain offers no way to be told."""

    def find_spec(self, name, path=None, target=None):
        if name != HUB:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                add_models(module.ModelHub)
            spec.loader.exec_module = exec_module
        return spec
