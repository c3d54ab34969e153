"""What makes the package a plugin: its configs by name and its checkpoints readable.

Imported with the package, whenever MMEngine is installed. Imports no PyTorch by itself.
"""
import sys
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE

from mmeffnet import registry  # noqa: F401  (the scope exists from here on)

MIM = Path(__file__).parent / '.mim'

# MMEngine resolves `_base_ = 'mmeffnet::...'` through this table. Its value is looked up as
# a distribution first and as a module next. A module inside the package is on purpose: it is
# found wherever the package really lies, while MMEngine takes a distribution to lie in
# site-packages, which is wrong for `pip install -e`.
MODULE2PACKAGE.setdefault('mmeffnet', 'mmeffnet.version')

if sys.modules.get('torch'):
    # Otherwise the registry does it with the first class it is asked for.
    from mmeffnet.weights import sources  # noqa: F401


def config_path(name: str) -> str:
    """The absolute path of a config that the package ships.

    name: such as 'efficientnet/efficientnet-b3_8xb32_in1k.py'.
    Raises FileNotFoundError naming the nearest config.
    """
    from mmeffnet.arch import nearest
    root = MIM / 'configs'
    path = root / name
    if not path.is_file():
        known = [str(p.relative_to(root)) for p in sorted(root.rglob('*.py'))]
        raise FileNotFoundError(f'mmeffnet ships no config {name!r}{nearest(name, known)}')
    return str(path)
