"""The command line of tools/export.py."""
from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import DictAction

from mmeffnet.engine.cli import parsed
from mmeffnet.errors import InputError, one_line_errors
from mmeffnet.export.runtime import BESIDE, FORMATS, SUFFIXES, open_exported
from mmeffnet.weights.files import stem_of

TERMINATED = 128 + signal.SIGTERM  # by convention
PART = '.' * 30  # as long as what files.whole adds to a name


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/export.py."""
    result = argparse.ArgumentParser(
        description='Write a classifier as a file that needs neither mmeffnet nor MMEngine, and '
        'hold it against PyTorch.')
    add = result.add_argument
    add('config', help='path of a config')
    add('checkpoint', help='a checkpoint as tools/test.py takes it')
    add('--format', choices=SUFFIXES, default='onnx', help='onnx by default')
    add('--out', type=Path, metavar='FILE', help='work_dirs/<config>/<checkpoint> with the '
        'suffix of the format by default')
    add('--size', type=int, nargs='+', metavar='PX', help='height and width of the images, or '
        "one number for both; the config's by default")
    add('--dynamic', default='', metavar='AXES', help="what stays open: 'batch', 'size' or "
        "'batch,size'; nothing by default")
    add('--preprocess', action='store_true', help='normalise inside the graph, which takes RGB '
        'images of uint8 then')
    number = result.add_mutually_exclusive_group()
    number.add_argument('--half', action='store_true', help='float16, logits in float32')
    number.add_argument('--int8', action='store_true', help='whole numbers of 8 bits, for '
                        '--format onnx; needs --calib')
    add('--calib', metavar='FOLDER', help='pictures that show --int8 the range of every value')
    add('--classes', metavar='FILE', help='names of the classes, one a line')
    add('--pictures', metavar='FOLDER', help='what the file is held against PyTorch on; two '
        'photographs of scikit-learn by default')
    add('--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE',
        help='override keys of the config')
    return result


def main(argv=None) -> None:
    """tools/export.py. Exits with 2 for wrong input, 1 where the file is not the network."""
    args = parsed(parser(), argv)
    with one_line_errors(), _terminable():
        export(args)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the process as an error does, which leaves nothing half done."""
    def end(*_):
        sys.exit(TERMINATED)
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets the main thread alone hear signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def export(args: argparse.Namespace) -> None:
    """Write the file, open it again, and compare."""
    from mmeffnet.engine.config import load_config
    from mmeffnet.export import check, formats, graph, quantize, runtime
    dynamic = _axes(args.dynamic, args.format)
    precision = 'float16' if args.half else 'int8' if args.int8 else 'float32'
    _check_int8(args, dynamic)
    cfg = load_config(args.config, args.cfg_options)
    out = _out(args)
    pictures = check.real_pictures(args.pictures)
    classifier = graph.read_classifier(cfg, args.checkpoint, args.classes,
                                       _size(args.size) if args.size else None)
    seen = quantize.images(cfg, args.calib, classifier.size) if args.int8 else None
    metadata = classifier.metadata(args.preprocess, config=Path(args.config).name,
                                   checkpoint=Path(args.checkpoint).name, dynamic=list(dynamic),
                                   precision=precision)
    with _scratch() as folder:
        made = folder / out.name
        formats.write(classifier.deployed(args.preprocess, args.half), made, args.format,
                      classifier.size, dynamic, metadata)
        if seen:
            quantize.quantize(made, seen, classifier, args.preprocess)
        rows = check.compare(runtime.open_exported(made)[0], classifier, args.preprocess, pictures,
                             dynamic, precision)
        formats.put(made, out.parent)  # nobody shall take for the network what is not
    for row in rows:
        print(f'{row.size[0]} x {row.size[1]} px: logits within {row.difference:.1e} of the '
              f'largest, best class equal on {row.same_class} of {row.pictures} pictures')
    print(f'{out} ({out.stat().st_size / 1e6:.1f} MB)')


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder; InputError where it cannot be written to."""
    try:
        with tempfile.TemporaryDirectory(prefix='mmeffnet-export-') as folder:
            yield Path(folder)
    except OSError as error:
        file = error.filename
        if isinstance(file, str) and not file.startswith(tempfile.tempdir or file):
            raise  # of a file elsewhere
        place = f' {tempfile.tempdir!r}' if tempfile.tempdir else ''
        raise InputError(f'the temporary folder{place}, where a file is made first, cannot be '
                         f'written to: {error.strerror or error}: free space there, or name '
                         'another folder by TMPDIR=FOLDER') from error


def _out(args: argparse.Namespace) -> Path:
    suffix = SUFFIXES[args.format]
    out = args.out or Path('work_dirs', Path(args.config).stem,
                           stem_of(args.checkpoint) + suffix)
    if FORMATS.get(out.suffix) != args.format:
        raise InputError(f'--out {str(out)!r}: a file of --format {args.format} ends with {suffix}')
    try:
        folder = next(parent for parent in out.absolute().parents if parent.exists())
        (folder / f'.{out.name}{PART}').exists()  # an error where the name is too long
        if folder.is_dir():
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f'--out {str(out)!r} cannot be written: {error.strerror}') from error
    for path, wrong, what in ((folder, not folder.is_dir(), 'is no folder'),
                              (out, out.is_dir(), 'is a folder')):
        if wrong:
            raise InputError(f'--out {str(out)!r} cannot be written: {str(path)!r} {what}')
    _check_replaced(out, args)
    return out


def _check_replaced(out: Path, args: argparse.Namespace) -> None:
    """What is written takes the place of no checkpoint, and a second file only of our own."""
    beside = out.with_suffix(BESIDE[args.format]) if args.format in BESIDE else None
    for path in filter(None, (out, beside)):
        if path.exists() and Path(args.checkpoint).exists() and path.samefile(args.checkpoint):
            raise InputError(f'--out {str(out)!r} would overwrite the checkpoint {str(path)!r}: '
                             'give another name')
    if beside and beside.exists():
        try:
            open_exported(out)
        except InputError as error:
            raise InputError(f'--out {str(out)!r} would overwrite {str(beside)!r}, which does not '
                             f'belong to such a file ({error}): give another name, or '
                             'remove it') from error


def _check_int8(args: argparse.Namespace, dynamic: tuple) -> None:
    if bool(args.calib) != args.int8:
        raise InputError('--int8 and --calib FOLDER belong together')
    if args.int8 and (args.format != 'onnx' or 'size' in dynamic):
        raise InputError('--int8 is written as --format onnx, for images of one size')


def _axes(text: str, kind: str) -> tuple[str, ...]:
    from mmeffnet.export.formats import AXES
    axes = tuple(filter(None, text.split(',')))
    if not set(axes) <= set(AXES):
        raise InputError(f'--dynamic {text!r} must be of {" and ".join(AXES)}, such as '
                         "'batch,size'")
    # A traced graph is open in all of them, whether that is asked for or not.
    return AXES if kind == 'torchscript' else axes


def _size(numbers: list[int]) -> tuple[int, int]:
    if len(numbers) > 2 or min(numbers) < 1:
        raise InputError(f'--size {" ".join(map(str, numbers))}: give a height and a width in '
                         'pixels, or one number for both')
    return numbers[0], numbers[-1]
