"""Errors that end a command with one clear line and no traceback."""
import os
import sys
from contextlib import contextmanager
from contextvars import ContextVar

TRACEBACK_SWITCH = 'MMEFFNET_TRACEBACK'


class InputError(Exception):
    """Something the user gave is wrong: the message names it, the rule and the way out."""


class RunError(Exception):
    """A run that had to stop on its way: the message says where, why and how to go on."""

    def __init__(self, text: str):
        # PyTorch hands an error of a loading worker on with the worker's traceback in its text.
        super().__init__(text.rpartition(f'{type(self).__name__}: ')[2].strip())


# What the process ends with: 2 before anything was done, 1 on the way.
EXIT_CODES = {InputError: 2, RunError: 1}
INTERRUPTED = 130  # by Ctrl-C, by convention
_WITHIN: ContextVar[bool] = ContextVar('_WITHIN', default=False)  # one_line_errors


@contextmanager
def one_line_errors(*also: type[Exception], go_on: str = ''):
    """End the process with one line for an InputError, a RunError, Ctrl-C and types in ``also``.

    go_on: what is said after Ctrl-C of how to go on. Of a command that runs another the outer one
    speaks.
    Setting MMEFFNET_TRACEBACK=1 lets the exception through, with its traceback.
    """
    if _WITHIN.get():
        yield
        return
    within = _WITHIN.set(True)
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get(TRACEBACK_SWITCH):
            raise
        print(f'interrupted{go_on and f": {go_on}"}', file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (*EXIT_CODES, *also) as error:
        if os.environ.get(TRACEBACK_SWITCH):
            raise
        known = [code for kind, code in EXIT_CODES.items() if isinstance(error, kind)]
        hint = '' if known else f' [{TRACEBACK_SWITCH}=1 shows where]'
        print(f'error: {one_line(error)}{hint}', file=sys.stderr)
        sys.exit(known[0] if known else 2)
    finally:
        _WITHIN.reset(within)


def check_numbers(args, least: int, *names: str) -> None:
    """InputError for an argument of a command line, one number or several, that is below ``least``.

    names: attributes of ``args``; None is no number.
    """
    for name in names:
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not value >= least:  # as is NaN
                flag = name.replace('_', '-')
                raise InputError(f'--{flag} {value} must be at least {least}')


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks, with its type where that helps."""
    # str() of a KeyError quotes its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if isinstance(error, (*EXIT_CODES, ValueError, FileNotFoundError)) and text:
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
