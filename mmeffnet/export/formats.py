"""How each format is written."""
from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import warnings
from contextlib import ExitStack
from glob import escape
from pathlib import Path

import torch

from mmeffnet.errors import InputError, one_line
from mmeffnet.export.graph import Exportable
from mmeffnet.export.runtime import KEY, METADATA, SUFFIXES, need
from mmeffnet.files import whole

OPSET = 20
AXES = ('batch', 'size')  # what may be left open
OUTPUT = 'logits'
# Least pixels of a side of the example of an open size, and at least two strides: a last map of one
# pixel would be taken for one of every size.
SMALLEST = 64
QUIET = 60  # seconds after which a part of a file is not being written


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
    """Put a file, and what was written beside it, into a folder.

    An error leaves what was there. So does a kill, but for the moment in which two files take
    their places: what is opened is missing then, and never beside a second file of another export.
    What killed exports left of these files is removed.
    Raises InputError where the folder cannot be written to.
    """
    final = folder / made.name
    files = sorted(made.parent.iterdir(), key=made.__ne__)
    try:
        with ExitStack() as parts:  # which leaves in the other order: what is opened comes last
            for file in files:
                part = parts.enter_context(whole(folder / file.name))
                shutil.copyfile(file, part)
                with part.open('rb') as copy:  # whatever a disk refuses, it refuses here
                    os.fsync(copy.fileno())
            if len(files) > 1:
                final.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f'{str(final)!r} cannot be written: {error.strerror or error}') from error
    for file in files:
        _remove_parts(folder / file.name)


def _remove_parts(path: Path) -> None:
    """Remove the parts of a file (:func:`mmeffnet.files.whole`) whose processes are gone."""
    for part in path.parent.glob(f'.{escape(path.name)}.*-*.part'):
        process = part.name.removeprefix(f'.{path.name}.').partition('-')[0]
        # Another host has processes of its own, and writes to their parts.
        quiet = time.time() - part.stat().st_mtime > QUIET
        if quiet and process.isdecimal() and not _runs(int(process)):
            part.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
                                 input_names=['images'], output_names=[OUTPUT],
                                 opset_version=OPSET, verbose=False)
    model = exported.model_proto
    _name_axes(model.graph)
    model.metadata_props.append(onnx.StringStringEntryProto(key=KEY, value=text))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _name_axes(graph) -> None:
    """Call the open axes of an ONNX graph what they are; PyTorch numbers them."""
    axes = graph.input[0].type.tensor_type.shape.dim
    names = {axis.dim_param: name for axis, name in zip(
        axes, ('batch', 'channels', 'height', 'width'), strict=True) if axis.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:  # or a formula of them
                axis.dim_param = re.sub(r'\w+', lambda found: names.get(found[0], found[0]),
                                        axis.dim_param)


def _write_torchscript(network, example, path: Path, dynamic: tuple, text: str) -> None:
    # Traced, padding is computed from each image: such a graph is right at every size.
    traced = torch.jit.trace(network, example, check_trace=False)
    content = io.BytesIO()  # where a disk is full, PyTorch's own writer ends the process
    torch.jit.save(torch.jit.freeze(traced.eval()), content, _extra_files={METADATA: text})
    path.write_bytes(content.getbuffer())


def _write_torch_export(network, example, path: Path, dynamic: tuple, text: str) -> None:
    content = io.BytesIO()
    torch.export.save(program(network, example, dynamic), content, extra_files={METADATA: text})
    path.write_bytes(content.getbuffer())


def _write_openvino(network, example, path: Path, dynamic: tuple, text: str) -> None:
    openvino = need('openvino')
    half = network.fc.weight.dtype == torch.float16
    model = openvino.convert_model(program(network.float(), example, dynamic))
    # It leaves all axes open, and fixed arithmetic is wrong at another size, unnoticed.
    model.reshape([-1 if axis in shapes(dynamic) else side
                   for axis, side in enumerate(example.shape)])
    model.outputs[0].get_tensor().set_names({OUTPUT})
    model.set_rt_info(text, [KEY])
    try:
        # Of half precision its weights, not its arithmetic.
        openvino.save_model(model, str(path), compress_to_fp16=half)
    except RuntimeError as error:  # of C++, for a disk that is full
        raise OSError(f'OpenVINO cannot write it ({one_line(error)})') from error


WRITERS = {'onnx': _write_onnx, 'torchscript': _write_torchscript,
           'torch-export': _write_torch_export, 'openvino': _write_openvino}
assert WRITERS.keys() == SUFFIXES.keys()
