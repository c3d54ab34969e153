"""Reading a config: the file, its keys, and where a wrong one sits."""
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmeffnet.arch import nearest
from mmeffnet.engine.errors import InputError, one_line
from mmeffnet.plugin import MIM

# What MMEngine looks for in a config beside the arguments of the Runner.
OTHER_KEYS = ('auto_scale_lr', 'custom_imports', 'model_wrapper_cfg')
# Other names are free for a config's own use; only one this close is taken for a slip.
SLIP = 0.85


def load_config(path: str, options: dict | None = None) -> Config:
    """Load a config file and merge ``options`` (dotted keys) into it.

    Raises InputError for a path that does not exist (naming the nearest config), a file
    that cannot be read, and a misspelt key.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path!r} does not exist{_nearest_config(path)}')
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise InputError(f'config {path!r} cannot be read: {one_line(error)}') from error
    check_keys(cfg)
    return cfg


def check_keys(cfg: Config) -> None:
    """Refuse a top-level key that is one slip away from one that means something.

    MMEngine takes any key, and a misspelt one then silently does nothing. Keys further
    down reach a class, which refuses those it does not know.
    """
    known = (*inspect.signature(Runner.__init__).parameters, *OTHER_KEYS)
    for key in cfg:
        if key not in known and not key.startswith('_'):
            close = difflib.get_close_matches(key, known, n=1, cutoff=SLIP)
            if close:
                raise InputError(f'config key {key!r} means nothing{nearest(key, close)} '
                                 'If it is a name of your own, choose one less alike')


def explain(error: Exception, cfg: Config) -> str:
    """The message of an error met while building, with the place in the config."""
    text = one_line(error)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    places = list(_places(unexpected[1], cfg.to_dict())) if unexpected else ()
    return f'{text} (in the config: {", ".join(places)})' if places else text


def _places(key: str, node, path: str = '') -> Iterator[str]:
    """Dotted paths of ``key`` in dicts that describe an object."""
    if isinstance(node, dict):
        if key in node and 'type' in node:
            yield f'{path}{key}'
        for name, value in node.items():
            yield from _places(key, value, f'{path}{name}.')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _places(key, value, f'{path}{index}.')


def _nearest_config(path: str) -> str:
    """The config most like ``path``, out of its own folder or out of ours."""
    wanted = Path(path)
    siblings = {p.name: p for p in sorted(wanted.parent.glob('*.py'))}
    ours = {p.name: p for p in sorted((MIM / 'configs').rglob('*.py'))}
    for known in (siblings, ours):
        close = difflib.get_close_matches(wanted.name, known, n=1)
        if close:
            return f'; did you mean {str(known[close[0]])!r}?'
    return ''
