"""Exported files, opened as functions from images to logits."""
from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mmeffnet.errors import InputError, one_line
from mmeffnet.weights import files
from mmeffnet.weights.data import dataset_configs, gives_rgb, step_name, steps_of

# Suffix of a file -> format, and the packages that run it.
FORMATS = {'.onnx': 'onnx', '.torchscript': 'torchscript', '.pt2': 'torch-export',
           '.xml': 'openvino'}
SUFFIXES = {name: suffix for suffix, name in FORMATS.items()}
BESIDE = {'openvino': '.bin'}  # the suffix of a second file, which holds the weights
ARCHIVES = 'torchscript', 'torch-export'  # with the sum of each part
METADATA = 'metadata.json'
KEY = 'mmeffnet'  # of ONNX's and OpenVINO's own metadata
# Transforms that make other numbers of pixels than a file takes, alone or in Albumentations.
NORMALISING = {'Normalize', 'ToFloat', 'torchvision/ConvertImageDtype', 'torchvision/Normalize',
               'torchvision/ToDtype', 'torchvision/ToTensor'}


def is_exported(path) -> bool:
    """Whether a path is meant as an exported file, by its suffix."""
    return Path(str(path)).suffix in FORMATS


def open_exported(path) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict]:
    """The function in a file, and its metadata.

    The function takes (N, 3, H, W) images, of the sizes and kind that the metadata says, and
    gives (N, classes) logits in float32. Raises InputError for a file that is missing, damaged or
    not written by tools/export.py, and names the package that runs it where that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'exported file {str(path)!r} does not exist')
    kind = FORMATS[path.suffix]
    try:
        if kind in ARCHIVES:
            _check_archive(path)
        call, metadata = OPENERS[kind](path)
    except InputError:
        raise
    except Exception as error:
        damaged = '' if isinstance(error, OSError) and error.strerror else (
            ': it is damaged, or not of this format; export it again')
        raise InputError(f'exported file {str(path)!r} cannot be opened: '
                         f'{one_line(error)}{damaged}') from error
    if not (isinstance(metadata, dict) and 'normalised_inside' in metadata):
        raise InputError(f'exported file {str(path)!r} was not written by tools/export.py: it '
                         'does not say how its images are normalised')
    return call, metadata


def _check_archive(path: Path) -> None:
    """Raise ValueError for an archive with a wrong sum: PyTorch opens weights that were changed."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f'no whole archive ({path.stat().st_size:,} bytes)')
    with zipfile.ZipFile(path) as archive:
        wrong = archive.testzip()
    if wrong:
        raise ValueError(f'the sum of {wrong!r} in it is wrong')


def _parsed(text: str | bytes | None):
    """The metadata that a file keeps as JSON, None where it keeps none."""
    return json.loads(text) if text else None


def tests_rgb(cfg) -> bool:
    """Whether the data of the test are RGB where the pipeline ends, and not BGR.

    Raises InputError where they are normalised there, in an order of its own, and where data sets
    of different orders are joined.
    """
    found = set()
    for _, dataset in dataset_configs(cfg, 'test_dataloader'):
        for step in map(step_name, steps_of(dataset.get('pipeline'))):
            if step in NORMALISING:
                raise InputError(f'test_dataloader.dataset.pipeline: {step} is in no exported '
                                 'file: give mean, std and to_rgb to data_preprocessor, for pixels '
                                 'of 0..255')
        found.add(gives_rgb(dataset))
    if len(found) > 1:
        raise InputError('test_dataloader.dataset: some of its data sets give RGB and others BGR: '
                         'give them one order')
    return True in found


def takes_bgr(preprocessor, rgb: bool) -> bool:
    """Whether a data preprocessor gives the network BGR. rgb: whether it is given RGB."""
    # The second is what MMEngine's own, and those made of it, call it.
    turns = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    return turns == rgb


def normalisation(preprocessor, bgr: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of R, G and B in a data preprocessor.

    bgr: whether that is its own order, see :func:`takes_bgr`. 0 and 1 where it normalises nothing.
    """
    if getattr(preprocessor, 'mean', None) is None:
        return (0., ) * 3, (1., ) * 3
    found, step = [], -1 if bgr else 1
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name).flatten().tolist()
        values = values * 3 if len(values) == 1 else values  # one may stand for all channels
        found.append(tuple(map(float, values[::step])))
    return tuple(found)


need = partial(files.need, extra='export')  # what a format needs


def _open_onnx(path: Path):
    runtime = need('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    (given, ) = session.get_inputs()
    kind = {'tensor(uint8)': torch.uint8}.get(given.type, torch.float32)

    def call(images: torch.Tensor) -> torch.Tensor:
        (logits, ) = session.run(None, {given.name: images.to(kind).contiguous().numpy()})
        return torch.from_numpy(logits).float()
    return call, _parsed(session.get_modelmeta().custom_metadata_map.get(KEY))


def _open_torchscript(path: Path):
    extra = {METADATA: ''}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # that another format is preferred
        module = torch.jit.load(str(path), map_location='cpu', _extra_files=extra)
    return _as_written(module, _parsed(extra[METADATA]))


def _open_torch_export(path: Path):
    extra, log = {METADATA: ''}, logging.getLogger(torch.export.__name__)
    level = log.level
    log.setLevel(logging.CRITICAL)  # it writes the traceback of an error that it raises, too
    try:
        program = torch.export.load(str(path), extra_files=extra)
    finally:
        log.setLevel(level)
    return _as_written(program.module(), _parsed(extra[METADATA]))


def _as_written(module, metadata):
    """A graph of PyTorch's, without gradients and whatever autocast is on outside of it."""
    raw = isinstance(metadata, dict) and metadata.get('normalised_inside')
    kind = torch.uint8 if raw else torch.float32

    def call(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast('cpu', enabled=False):
            return module(images.to(kind)).float()
    return call, metadata


def _open_openvino(path: Path):
    core = need('openvino').Core()
    model = core.read_model(str(path))
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    kind = torch.uint8 if 'u8' in str(model.inputs[0].element_type) else torch.float32

    def call(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(images.to(kind).contiguous().numpy())[0].copy()).float()
    return call, _parsed(model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None)


OPENERS = {'onnx': _open_onnx, 'torchscript': _open_torchscript,
           'torch-export': _open_torch_export, 'openvino': _open_openvino}
