"""How each format is written."""
from __future__ import annotations

import json
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path

import torch

from mmeffnet.errors import InputError
from mmeffnet.export.graph import Exportable
from mmeffnet.export.runtime import KEY, METADATA, SUFFIXES, need
from mmeffnet.files import whole

OPSET = 20
AXES = ('batch', 'size')  # what may be left open
# Least pixels of a side of the example of an open size, and at least two strides: a last map of one
# pixel would be taken for one of every size.
SMALLEST = 64


def write(network: Exportable, path: Path, kind: str, size: tuple[int, int], dynamic: tuple = (),
          metadata: dict | None = None) -> None:
    """Write a network as ``kind`` to ``path``; OpenVINO writes a second file beside it.

    size: height and width of the images. dynamic: of ``AXES``; axes that are not named are
    fixed. TorchScript's graphs are open in all of them.
    """
    text = json.dumps(metadata or {})
    if 'size' in dynamic:
        smallest = max(SMALLEST, 2 * network.backbone.arch.out_strides[-1])
        size = tuple(max(side, smallest) for side in size)
    example = torch.zeros((2 if 'batch' in dynamic else 1, 3, *size),
                          dtype=torch.uint8 if network.raw else torch.float32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of exporters, about themselves
        WRITERS[kind](network, example, path, dynamic, text)


def put(made: Path, folder: Path) -> None:
    """Put a file, and what was written beside it, into a folder: all of them whole, or none.

    Raises InputError where that cannot be written to.
    """
    try:
        with ExitStack() as parts:  # which leaves in the other order: what is opened comes last
            for file in sorted(made.parent.iterdir(), key=made.__ne__):
                shutil.copyfile(file, parts.enter_context(whole(folder / file.name)))
    except OSError as error:
        raise InputError(f'{str(folder / made.name)!r} cannot be written: '
                         f'{error.strerror or error}') from error


def shapes(dynamic: tuple) -> dict:
    """The axes of ``images`` that are open, as torch.export takes them."""
    names = {0: 'batch' in dynamic, 2: 'size' in dynamic, 3: 'size' in dynamic}
    return {axis: torch.export.Dim.DYNAMIC for axis, wanted in names.items() if wanted}


def program(network: Exportable, example: torch.Tensor, dynamic: tuple):
    """The network as torch.export sees it."""
    return torch.export.export(network, (example, ), dynamic_shapes=dict(images=shapes(dynamic)))


def _write_onnx(network, example, path: Path, dynamic: tuple, text: str) -> None:
    onnx = need('onnx')
    need('onnxscript')
    exported = torch.onnx.export(program(network, example, dynamic), (), None, dynamo=True,
                                 input_names=['images'], output_names=['logits'],
                                 opset_version=OPSET, verbose=False)
    model = exported.model_proto
    model.metadata_props.append(onnx.StringStringEntryProto(key=KEY, value=text))
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _write_torchscript(network, example, path: Path, dynamic: tuple, text: str) -> None:
    # Traced, padding is computed from each image: such a graph is right at every size.
    traced = torch.jit.trace(network, example, check_trace=False)
    torch.jit.save(torch.jit.freeze(traced.eval()), str(path), _extra_files={METADATA: text})


def _write_torch_export(network, example, path: Path, dynamic: tuple, text: str) -> None:
    torch.export.save(program(network, example, dynamic), str(path), extra_files={METADATA: text})


def _write_openvino(network, example, path: Path, dynamic: tuple, text: str) -> None:
    openvino = need('openvino')
    half = network.fc.weight.dtype == torch.float16
    model = openvino.convert_model(program(network.float(), example, dynamic))
    # It leaves all axes open, and fixed arithmetic is wrong at another size, unnoticed.
    model.reshape([-1 if axis in shapes(dynamic) else side
                   for axis, side in enumerate(example.shape)])
    model.set_rt_info(text, [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=half)  # its weights, not its arithmetic


WRITERS = {'onnx': _write_onnx, 'torchscript': _write_torchscript,
           'torch-export': _write_torch_export, 'openvino': _write_openvino}
assert WRITERS.keys() == SUFFIXES.keys()
