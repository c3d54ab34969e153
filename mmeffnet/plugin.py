"""What makes the package a plugin: its configs by name and its checkpoints readable.

Imported with the package, whenever MMEngine is installed. Imports no PyTorch by itself.
"""
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE

from mmeffnet import registry  # noqa: F401  (the scope exists from here on)
from mmeffnet.version import EXTRAS

MIM = Path(__file__).parent / '.mim'

# MMEngine resolves `_base_ = 'mmeffnet::...'` through this table. Its value is looked up as
# a distribution first and as a module next. A module inside the package is on purpose: it is
# found wherever the package really lies, while MMEngine takes a distribution to lie in
# site-packages, which is wrong for `pip install -e`.
MODULE2PACKAGE.setdefault('mmeffnet', 'mmeffnet.version')

def _know_forks() -> None:
    """Let MMEngine find packages whose fork has another distribution name.

    It looks 'mmseg' up as the distribution mmsegmentation, which the fork is not.
    """
    for module, package in MODULE2PACKAGE.items():
        if package != module and package != 'mmeffnet.version' and find_spec(module):
            try:
                distribution(package)
            except PackageNotFoundError:
                MODULE2PACKAGE[module] = module


_know_forks()

if sys.modules.get('torch'):
    # Otherwise the registry does it with the first class it is asked for.
    from mmeffnet.weights import sources  # noqa: F401


def config_path(name: str) -> str:
    """The absolute path of a config that the package ships, or another OpenMMLab package.

    name: such as 'efficientnet/efficientnet-b3_8xb32_in1k.py', or with the package before it,
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'. Unlike ``_base_ = 'mmseg::...'`` this
    works under every package's tools and with the forks.
    Raises FileNotFoundError naming the nearest config, ModuleNotFoundError for a package that is
    not installed.
    """
    from mmeffnet.arch import nearest
    package, _, name = name.rpartition('::')
    package = package or 'mmeffnet'
    found = find_spec(package)
    if found is None:
        raise ModuleNotFoundError(f'{package} is not installed, and the config is based on its '
                                  f'{name!r}. Run: {EXTRAS.get(package, f"pip install {package}")}',
                                  name=package)
    root = Path(found.origin).parent / '.mim' / 'configs'
    path = root / name
    if not path.is_file():
        known = [str(p.relative_to(root)) for p in sorted(root.rglob('*.py'))]
        raise FileNotFoundError(f'{package} ships no config {name!r}{nearest(name, known)}')
    return str(path)
