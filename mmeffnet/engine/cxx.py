"""Stands in for GCC while an extension of PyTorch is compiled: its headers are compiled once.

``python cxx.py FOLDER COMPILER ARGUMENTS``: most of the time that a source takes goes into
PyTorch's headers. The first source has them compiled in FOLDER; those that come meanwhile do
without. GCC leaves them alone for a source with other flags. It starts anew for each source and
therefore imports little.
"""
import os
import subprocess
import sys
from pathlib import Path

HEADER = 'torch/types.h'  # what every source includes, itself or by another


def main(folder: str, compiler: str, *arguments: str) -> None:
    """Become the compiler."""
    header = Path(folder) / 'precompiled.h'
    # CUDA's compiler calls with -x, some of it for what has been through the preprocessor.
    sources = '-c' in arguments and '-x' not in arguments
    if sources and precompiled(header, compiler, arguments):
        arguments = ('-include', str(header), *arguments)
    os.execv(compiler, [compiler, *arguments])


def precompiled(header: Path, compiler: str, arguments: tuple[str, ...]) -> bool:
    """Whether the headers are compiled; one caller compiles them, once."""
    done = header.with_name(f'{header.name}.gch')  # where GCC looks
    if done.exists():
        return True
    try:
        header.touch(exist_ok=False)
    except FileExistsError:
        return False
    header.write_text(f'#include <{HEADER}>\n')
    part = header.with_name('unfinished.gch')
    command = [compiler, *flags(arguments), '-x', 'c++-header', str(header), '-o', str(part)]
    if subprocess.run(command, capture_output=True).returncode:
        part.unlink(missing_ok=True)
        return False
    part.rename(done)  # others find all of it or nothing
    return True


def flags(arguments: tuple[str, ...]) -> list[str]:
    """Arguments of a compilation without its files."""
    rest, kept = iter(arguments), []
    for argument in rest:
        if argument in ('-o', '-MF'):
            next(rest)
        elif argument not in ('-c', '-MMD') and not argument.endswith('.cpp'):
            kept.append(argument)
    return kept


if __name__ == '__main__':
    main(*sys.argv[1:])
