"""Published weights: where they are, what they need, and how they are read.

``CATALOG`` and its functions need the standard library only; ``load_weights`` and ``Weights``
are imported, with PyTorch and MMEngine, when they are first used.
"""
import importlib

_PUBLIC = {
    'CATALOG': 'mmeffnet.weights.catalog',
    'Entry': 'mmeffnet.weights.catalog',
    'get_entry': 'mmeffnet.weights.catalog',
    'find': 'mmeffnet.weights.catalog',
    'identify': 'mmeffnet.weights.catalog',
    'verify': 'mmeffnet.weights.catalog',
    'apply': 'mmeffnet.weights.settings',
    'mismatch': 'mmeffnet.weights.settings',
    'Weights': 'mmeffnet.weights.translate',
    'load_weights': 'mmeffnet.weights.sources',
}

__all__ = [*_PUBLIC]


def __getattr__(name):
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
