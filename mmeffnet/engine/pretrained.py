"""Where a config takes weights from: checked, and made loadable, before anything is built."""
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmeffnet.engine.saving import newest_checkpoint
from mmeffnet.errors import InputError
from mmeffnet.weights.catalog import CATALOG, get_entry
from mmeffnet.weights.files import expanded, kind_of_file, read_checkpoint
from mmeffnet.weights.settings import apply, mismatch, norm_mismatch
from mmeffnet.weights.sources import REGISTERED, published, read_state


def address(source) -> str:
    """The form of ``source`` that MMEngine can load: its own reader knows PyTorch's files only."""
    source = expanded(source)
    if any(re.match(prefix, source) for prefix in REGISTERED):
        return source
    if '://' in source:
        # The address of a published file: it is compared with the published hash then.
        foreign = published(source) is not None
    else:
        foreign = by_name(source) or kind_of_file(source) != 'torch'
    return f'mmeffnet://{source}' if foreign else source


def by_name(source) -> bool:
    """Whether a set of the catalog is meant, and not a file that is called so."""
    return str(source) in CATALOG and not Path(source).exists()


def check_source(source, cfg: Config) -> None:
    """Read a local file, to be sure of it, and warn once where the config does not suit it."""
    source = expanded(source)
    entry, norm = published(source), None
    if not by_name(source) and '://' not in str(source):
        _, stated = read_state(source)
        entry, norm = entry or CATALOG.get(stated.get('published')), stated.get('norm')
    problem = mismatch(entry, cfg) if entry else None
    if norm and not entry:
        problem = norm_mismatch(norm, str(source), cfg)
    if problem:
        print_log(problem, 'current', level=logging.WARNING)


def _refuse_no_name(key: str, source) -> None:
    if source == '':
        raise InputError(f"{key}='' names no weights, as of a variable of the shell that is "
                         'not set: give a file, an address or a set of the catalog, or None')


def for_testing(cfg: Config) -> None:
    """Make the checkpoint of a test loadable; a set chosen by name brings its own settings."""
    _refuse_no_name('load_from', cfg.load_from)
    source = expanded(str(cfg.load_from).removeprefix('mmeffnet://'))
    if by_name(source):
        apply(get_entry(source), cfg)
        print_log(f'{source}: input, resolution and padding are set as published', 'current')
    else:
        check_source(source, cfg)
    cfg.load_from = address(source)


def for_training(cfg: Config) -> str | None:
    """Make the weights that training starts from loadable.

    Gives the checkpoint that is resumed, None where nothing is.
    """
    _refuse_no_name('load_from', cfg.get('load_from'))
    if cfg.get('resume'):
        if not cfg.get('load_from'):
            newest = newest_checkpoint(cfg.work_dir)
            cfg.load_from = str(newest) if newest else None
        path = cfg.load_from
        if path is None:
            print_log(f'Nothing to resume in {cfg.work_dir}: starting anew', 'current')
            cfg.resume = False
        elif '://' not in path:
            path = cfg.load_from = expanded(path)
            read_state(path)
            if kind_of_file(path) != 'torch' or 'optimizer' not in read_checkpoint(path):
                # Its counters would go on, and schedule and optimizer begin anew.
                raise InputError(f'checkpoint {path!r} has no optimizer, so that nothing can be '
                                 'resumed from it: give load_from in place of --resume, or one '
                                 'that the training wrote to be resumed, such as epoch_N.pth')
        return path
    _whole_model(cfg)
    if cfg.get('load_from'):
        check_source(cfg.load_from, cfg)
        cfg.load_from = address(cfg.load_from)
    for init_cfg in _init_cfgs(cfg.get('model')):
        if init_cfg.get('type') == 'Pretrained' and init_cfg.get('checkpoint') is not None:
            _refuse_no_name('init_cfg.checkpoint', init_cfg['checkpoint'])
            check_source(init_cfg['checkpoint'], cfg)
    return None


def _whole_model(cfg: Config) -> None:
    """Load what the whole model's own init_cfg names as ``load_from`` is loaded.

    MMEngine's initialiser knows one layout only and leaves random what it does not find.
    """
    model = cfg.get('model') or {}
    init = model.get('init_cfg')
    ours = 'EfficientNet' in str((model.get('backbone') or {}).get('type'))
    if cfg.get('load_from') or not ours or not isinstance(init, dict):
        return
    if init.get('type') == 'Pretrained' and init.get('checkpoint') and not init.get('prefix'):
        cfg.load_from = init['checkpoint']
        model.init_cfg = None


def _init_cfgs(node) -> Iterator[dict]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'init_cfg':
                yield from value if isinstance(value, list) else [value] if value else []
            else:
                yield from _init_cfgs(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _init_cfgs(value)
