"""Compile the operators of mmcv for the PyTorch that is installed; no PyTorch is imported."""
from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmeffnet.engine import cxx
from mmeffnet.errors import InputError, RunError, check_numbers, one_line_errors
from mmeffnet.version import DETECTION

# Operators that were compiled where no GPU was seen load beside one, and do not run there.
CHECK = """import torch
from mmcv.ops import nms
boxes = torch.eye(4, device="cuda" if torch.cuda.is_available() else "cpu")
nms(boxes, boxes[0], 0.5)
"""
# mmcv asks for C++17, and headers of newer PyTorch are C++20: the last of two flags counts.
STANDARD = '-std=c++20'
# What the build of mmcv needs in the environment itself, since it has to see its PyTorch.
NEEDED = ('torch', 'setuptools', 'wheel', 'ninja')


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/build_operators.py."""
    result = argparse.ArgumentParser(
        description='Compile the operators of mmcv, which detectors need, and install them.')
    result.add_argument('--wheels', type=Path, default=Path('wheels'), metavar='DIR',
                        help='where the wheel is kept; one that is there is installed at once')
    result.add_argument('--jobs', type=int, default=os.cpu_count(), metavar='N',
                        help='compilers at a time; as many as processors by default')
    result.add_argument('--force', action='store_true',
                        help='compile although operators or a wheel are there')
    return result


def main(argv=None) -> None:
    """tools/build_operators.py. Exits with 2 for what is missing, 1 for a failed compilation."""
    args = parser().parse_args(argv)
    with one_line_errors():
        check_numbers(args, 1, 'jobs')
        if not args.force and works():
            print('The operators are there already.')
            return
        folder = args.wheels / f'torch-{installed("torch")}'
        wheel = None if args.force else find(folder)
        install(wheel or compile_wheel(folder, args.jobs))
        print('The operators are installed.')


def works() -> bool:
    """Whether a fresh process can run the operators: a build for another PyTorch cannot."""
    return subprocess.run([sys.executable, '-c', CHECK], capture_output=True).returncode == 0


def installed(package: str) -> str:
    """The version of an installed package. Raises InputError with the command that brings it."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise InputError(f'compiling the operators needs {package}, which is not installed. '
                         f'Run: {DETECTION}') from None


def source() -> str:
    """The requirement that names the sources of the installed mmcv.

    Raises InputError for the official packages, whose sources today's PyTorch does not compile.
    """
    try:
        return f'onedl-mmcv=={version("onedl-mmcv")}'
    except PackageNotFoundError:
        raise InputError('the operators are compiled for onedl-mmcv, which is not installed. In '
                         f'an environment without mmcv or mmcv-lite, run: {DETECTION}') from None


def find(folder: Path) -> Path | None:
    """A wheel of the installed mmcv and this Python, compiled before."""
    _, wanted = source().split('==')
    tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
    return next(iter(sorted(folder.glob(f'onedl_mmcv-{wanted}-{tag}-*.whl'))), None)


def compile_wheel(folder: Path, jobs: int) -> Path:
    """Compile, with a bar, and give the wheel in ``folder``.

    Raises InputError where a compiler or a package is missing, RunError naming the compiler's
    first error and the log.
    """
    for package in NEEDED:
        installed(package)
    compiler = shutil.which(os.environ.get('CXX', '')) or shutil.which('c++') or shutil.which('g++')
    if compiler is None:
        raise InputError('compiling the operators needs a C++ compiler, and neither c++ nor g++ '
                         'is there. Install one, or set CXX to its path')
    log = folder / 'build.log'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise InputError(f'--wheels {str(folder.parent)!r}: nothing can be written there '
                         f'({error.strerror}). Name another folder') from None
    with tempfile.TemporaryDirectory(prefix='mmeffnet-operators-') as work:
        wrapped = _wrapped(Path(work) / 'cxx', compiler)
        environment = dict(os.environ, CXX=str(wrapped), CC=str(wrapped), MMCV_WITH_OPS='1',
                           MAX_JOBS=str(jobs), PIP_QUIET='0')  # the bar reads what pip says
        environment['NVCC_APPEND_FLAGS'] = f'{os.environ.get("NVCC_APPEND_FLAGS", "")} {STANDARD}'
        command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-cache-dir',
                   '--no-build-isolation', '--no-binary', ':all:', '-v', '-w', str(folder),
                   source()]
        if _run(command, environment, log) or find(folder) is None:
            raise RunError(f'compiling the operators failed: {_first_error(log)}; all of it is '
                           f'in {str(log)!r}')
    return find(folder)


def _wrapped(path: Path, compiler: str) -> Path:
    """A compiler that adds the newer standard, and no debugging symbols, to what it is told.

    GCC reads PyTorch's headers once beside ``path``; other compilers keep such headers otherwise.
    """
    told = subprocess.run([compiler, '--version'], capture_output=True, text=True).stdout
    command = [compiler]
    if 'Free Software Foundation' in told:
        command = [sys.executable, '-S', cxx.__file__, str(path.parent), compiler]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@" {STANDARD} -g0\n')
    path.chmod(0o755)
    return path


def _run(command: list[str], environment: dict, log: Path) -> int:
    """Run pip with its output in a log; ninja's counts move the bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    columns = (TextColumn('{task.description}'), BarColumn(), TextColumn('{task.completed:.0f} of '
               '{task.total}'), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar, log.open('w') as file:
        task = bar.add_task('Compiling', total=None)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors='replace') as process:
            for line in process.stdout:
                file.write(line)
                counts = re.match(r'\s*\[(\d+)/(\d+)\]', line)
                if counts:
                    bar.update(task, completed=int(counts[1]), total=int(counts[2]))
    return process.returncode


def _first_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines()]
    return next((line for line in lines if re.search(r'\berror\b:', line, re.IGNORECASE)),
                lines[-1] if lines else 'pip said nothing')


def install(wheel: Path) -> None:
    """Put the wheel in the place of the installed mmcv.

    Raises RunError where it is torn, or does not run.
    """
    put = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--force-reinstall', '--no-index',
           '--quiet', '--disable-pip-version-check', str(wheel)]
    for command, failure in ((put, 'cannot be installed'),
                             ([sys.executable, '-c', CHECK], 'was installed and does not run')):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            said = (result.stderr.strip(' .\n').splitlines() or ['nothing was said'])[-1]
            raise RunError(f'{str(wheel)!r} {failure}: {said}. Compile it anew with --force')
