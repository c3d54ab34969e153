"""Whole numbers of 8 bits in place of floating point, in an ONNX file."""
from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from rich.console import Console
from rich.progress import track
from torch import nn

from mmeffnet.engine.config import explain
from mmeffnet.errors import InputError, one_line
from mmeffnet.export.check import pictures_below, prepared
from mmeffnet.export.graph import Classifier
from mmeffnet.export.runtime import need, tests_rgb
from mmeffnet.files import whole
from mmeffnet.weights.data import pipelines_of, step_name

CHANNELS = 3
MOST = 128  # pictures that are looked at; more change the ranges little
# Per cent of an activation's numbers that a range leaves out: a few of Swish's are many times as
# large as the others, which would have the few steps that are left (docs/export.md).
RARE = 0.01


def images(cfg, folder: str, size: tuple[int, int]) -> list[torch.Tensor]:
    """Pictures of a folder as the config's test pipeline gives them: (3, H, W) of 0..255, RGB.

    Raises InputError for a folder without pictures, a picture that cannot be read, and a config
    whose pipeline is missing, cannot be built, packs nothing or gives other channels or another
    size than ``size``.
    """
    paths = pictures_below(folder, '--calib')
    # Evenly from all of them: folders are often sorted by class.
    paths = [paths[i * len(paths) // MOST] for i in range(MOST)] if len(paths) > MOST else paths
    pipelines = pipelines_of(cfg, 'test_dataloader')
    if not pipelines:
        raise InputError('--calib: test_dataloader.dataset.pipeline, which prepares the pictures, '
                         'is not in the config')
    if any(pipeline != pipelines[0] for pipeline in pipelines):
        raise InputError('--calib: data sets of test_dataloader.dataset have different pipelines, '
                         'and which prepares the pictures is not said: give them one')
    steps, rgb, found = [_built(step, cfg) for step in pipelines[0]], tests_rgb(cfg), []
    for path in track(paths, 'Reading pictures', transient=True):
        image = _through(steps, path)
        _check_shape(image, size)
        found.append(image if rgb else image.flip(0))
    return found


def _built(step, cfg):
    """A transform of the test pipeline."""
    try:
        return TRANSFORMS.build(step)
    except Exception as error:
        # Many check their arguments by assertions that say nothing.
        given = '' if str(error) else f', of one of its arguments: {dict(step)}'
        raise InputError(f'--calib: {step_name(step)} of the test pipeline cannot be built: '
                         f'{explain(error, cfg)}{given}') from error


def _check_shape(image, size: tuple[int, int]) -> None:
    """Refuse what is no image of three channels and this size."""
    shape = tuple(image.shape) if isinstance(image, torch.Tensor) else ()
    if shape[:1] != (CHANNELS, ) or len(shape) != 3:
        raise InputError('--calib: the test pipeline gives images of shape '
                         f'{" x ".join(map(str, shape)) or "none"} and the file '
                         f"takes {CHANNELS} channels x height x width: let it read them in colour "
                         "(color_type='color' of LoadImageFromFile) and end with PackInputs")
    if shape[1:] != tuple(size):
        raise InputError(f'--calib: the test pipeline gives images of {shape[1]} x {shape[2]} px '
                         f'and the file takes {size[0]} x {size[1]}: change one of them')


def _through(steps: list, path: Path) -> torch.Tensor:
    """What a pipeline makes of a picture."""
    data = dict(img_path=str(path))
    for step in steps:
        given = data
        try:
            data = step(given)
            if data is None:  # of LoadImageFromFile with ignore_empty
                raise ValueError('it gives nothing')
        except Exception as error:
            name = type(step).__name__
            hint = ''
            if name.startswith('Load'):
                hint = _way_out(path)
            elif 'img' not in given:
                hint = '; no step before it has read the picture: begin with LoadImageFromFile'
            raise InputError(f'--calib: {name} of the test pipeline fails on {str(path)!r}: '
                             f'{one_line(error)}{hint}') from error
    if 'inputs' not in (data or ()):
        raise InputError('--calib: test_dataloader.dataset.pipeline gives no inputs: let it end '
                         'with PackInputs')
    return data['inputs']


def _way_out(path: Path) -> str:
    """Whether the file is to blame for a step that fails to load it, or the step."""
    from mmeffnet.inference.images import read_image
    try:
        read_image(path)
    except InputError:
        return '; repair the file or take it out of the folder'
    return '; the picture is whole: change this step of test_dataloader.dataset.pipeline'


def quantize(path: Path, pictures: list[torch.Tensor], classifier: Classifier, raw: bool) -> None:
    """Replace a float32 ONNX file by one of 8 bits, its metadata kept.

    Weights have a scale for each channel and seven bits: processors without instructions for
    8 bits add two products in 16 and would overflow. Activations have eight, over the range that
    was seen; without ReLU6, which bounds them, over that of all but ``RARE`` per cent.
    """
    need('onnxruntime')
    onnx = need('onnx')
    from onnxruntime.quantization import QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize_file
    from onnxruntime.quantization.shape_inference import quant_pre_process
    seen = _arrays(track(pictures, 'Calibrating', transient=True, console=Console(stderr=True)),
                   classifier, raw)
    props = onnx.load(str(path)).metadata_props
    with tempfile.TemporaryDirectory(prefix='mmeffnet-int8-') as folder:
        before, after = Path(folder, 'before.onnx'), Path(folder, 'after.onnx')
        with _unsaid(), redirect_stdout(StringIO()):  # a line for each picture
            quant_pre_process(str(path), str(before), skip_symbolic_shape=True)
            quantize_file(str(before), str(after), _reader(seen, len(pictures)),
                          quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                          activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                          **_ranges(classifier))
        model = onnx.load(str(after))
    del model.metadata_props[:]
    model.metadata_props.extend(props)
    with whole(path) as part:
        onnx.save_model(model, str(part))


def _arrays(pictures: Iterable[torch.Tensor], classifier: Classifier, raw: bool
            ) -> Iterator[np.ndarray]:
    """Pictures, which a pipeline may give as floats, as the file takes them."""
    kind = torch.uint8 if raw else torch.float32
    for picture in pictures:
        yield prepared(picture[None], classifier, raw).to(kind).contiguous().numpy()


@contextmanager
def _unsaid() -> Iterator[None]:
    """ONNX Runtime advises, through Python's root logger, what has been done."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _ranges(classifier: Classifier) -> dict:
    """How ONNX Runtime finds the range of each activation."""
    from onnxruntime.quantization import CalibrationMethod
    if any(isinstance(m, nn.ReLU6) for m in classifier.network.backbone.modules()):
        return dict(calibrate_method=CalibrationMethod.MinMax)
    # One picture at a time: all of its activations are kept until they are counted.
    return dict(calibrate_method=CalibrationMethod.Percentile,
                extra_options=dict(CalibPercentile=100 - RARE, CalibStridedMinMax=1))


def _reader(seen: Iterator[np.ndarray], count: int):
    """What gives ONNX Runtime ``count`` images, all of them or a few at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        here = seen

        def __len__(self):
            return count

        def set_range(self, start_index, end_index):
            self.here = islice(seen, end_index - start_index)

        def get_next(self):
            image = next(self.here, None)
            return None if image is None else {'images': image}
    return Reader()
