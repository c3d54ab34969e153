"""Reading a config: the file, its keys, and where a wrong one sits."""
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

from mmeffnet.arch import nearest
from mmeffnet.errors import InputError, one_line
from mmeffnet.plugin import MIM

# Keys that MMEngine looks for, where no class refuses others: beside the arguments of the
# Runner at the top, and in two dicts below.
MEANINGFUL = {
    '': (*inspect.signature(Runner.__init__).parameters,
         'auto_scale_lr', 'custom_imports', 'model_wrapper_cfg'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'auto_scale_lr': ('enable', 'base_batch_size'),
}
# Arguments of the Runner that are dicts, or lists of them.
DICTS = tuple(name for name, argument in inspect.signature(Runner.__init__).parameters.items()
              if 'Dict' in str(argument.annotation))
# How a dict begins that somebody has written; '{}.pth' is a template of names.
WRITTEN_DICT = re.compile(r'\{\s*[\'"]|dict\(')
# Other names are free for a config's own use; only one this close is taken for a slip.
SLIP = 0.85


def load_config(path: str, options: dict | None = None) -> Config:
    """Load a config file and merge ``options`` (dotted keys) into it.

    Raises InputError for a path that does not exist (naming the nearest config), a file
    that cannot be read, a misspelt key, and an option that is text in the place of a dict.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path!r} does not exist{_nearest_config(path)}')
    _check_options(options or {})
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise InputError(f'config {path!r} cannot be read: {one_line(error)}') from error
    check_keys(cfg)
    _fill_visualizer(cfg)
    return cfg


def _check_options(options: dict) -> None:
    """Refuse text for a dict: MMEngine reads numbers and lists of a command line, and no dicts."""
    for key, value in options.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        if any(WRITTEN_DICT.match(str(item)) for item in items) or (
                key in DICTS and isinstance(value, (str, int, float))):
            raise InputError(f'--cfg-options {key}={value!r} has to be a dict, which it cannot '
                             f'write: name each of its keys, as in {key}.KEY=VALUE, or set it in '
                             'a config')


def _fill_visualizer(cfg: Config) -> None:
    """Let ``vis_backends = ...`` in a config that inherits ours mean the visualizer's.

    In MMEngine a base file's ``visualizer`` holds a copy, and the line would do nothing.
    """
    visualizer, backends = cfg.get('visualizer') or {}, cfg.get('vis_backends')
    if backends and visualizer.get('type') == 'mmeffnet.RunVisualizer':
        visualizer.setdefault('vis_backends', backends)


def check_keys(cfg: Config) -> None:
    """Refuse a key that is one slip away from one that means something, and hooks in no list.

    MMEngine takes any key in these places, and a misspelt one then silently does nothing.
    Keys elsewhere reach a class, which refuses those it does not know.
    """
    for parent, known in MEANINGFUL.items():
        for key in (cfg.get(parent) or {}) if parent else cfg:
            close = difflib.get_close_matches(key, known, n=1, cutoff=SLIP)
            if key not in known and not key.startswith('_') and close:
                raise InputError(
                    f'config key {f"{parent}.{key}".lstrip(".")!r} means nothing'
                    f'{nearest(key, close)} If it is a name of your own, choose one less alike')
    if isinstance(cfg.get('custom_hooks'), dict):
        raise InputError("config key 'custom_hooks' is a dict and must be a list, such as "
                         "[dict(type='EMAHook')]; --cfg-options custom_hooks.0.KEY changes a list "
                         'that the config has')
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            others = [other for other in hooks if other != name]
            raise InputError(f'config key {f"default_hooks.{name}"!r} has no type'
                             f'{nearest(name, others)}')


def explain(error: Exception, cfg: Config) -> str:
    """The message of an error met while building, with the place in the config."""
    text = one_line(error)
    if text == 'TypeError: None is not a callable object':  # an optimizer unknown to MMEngine
        for field, wrapper in _wrappers(cfg.get('optim_wrapper'), 'optim_wrapper'):
            kind = wrapper['optimizer'].get('type')
            if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
                return (f'{field}.optimizer.type={kind!r} is no optimizer that is installed (some '
                        'come in packages of their own, as Lion in lion-pytorch)'
                        f'{nearest(kind, OPTIMIZERS.module_dict)}')
    if text == 'base_wd should not be None':
        for field, wrapper in _wrappers(cfg.get('optim_wrapper'), 'optim_wrapper'):
            factors = list(_decay_factors(wrapper.get('paramwise_cfg') or {}))
            if factors and wrapper['optimizer'].get('weight_decay') is None:
                return (f'{field}.optimizer.weight_decay is missing, and {field}.paramwise_cfg has '
                        f'{" and ".join(factors)}: set it, to 0 for none')
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    places = list(_places(unexpected[1], cfg.to_dict())) if unexpected else ()
    return f'{text} (in the config: {", ".join(places)})' if places else text


def _wrappers(part, field: str) -> Iterator[tuple[str, dict]]:
    """Field and config of what wraps an optimizer, of which there may be several by name."""
    if not isinstance(part, dict):
        return
    if isinstance(part.get('optimizer'), dict):
        yield field, part
    for key, value in part.items():
        yield from _wrappers(value, f'{field}.{key}')


def _decay_factors(paramwise: dict) -> Iterator[str]:
    """What multiplies the weight decay of some parameters."""
    yield from (key for key in paramwise if key.endswith('decay_mult'))
    yield from (f'custom_keys.{key}.decay_mult' for key, value in
                (paramwise.get('custom_keys') or {}).items() if 'decay_mult' in value)


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
