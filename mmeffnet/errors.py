"""Errors that are the input's fault: one clear line, exit code 2, no traceback."""
import os
import sys
from contextlib import contextmanager

TRACEBACK_SWITCH = 'MMEFFNET_TRACEBACK'


class InputError(Exception):
    """Something the user gave is wrong: the message names it, the rule and the way out."""


@contextmanager
def one_line_errors(*also: type[Exception]):
    """End the process with one line for an InputError and for the types in ``also``.

    Setting MMEFFNET_TRACEBACK=1 lets the exception through, with its traceback.
    """
    try:
        yield
    except (InputError, *also) as error:
        if os.environ.get(TRACEBACK_SWITCH):
            raise
        hint = '' if isinstance(error, InputError) else f' [{TRACEBACK_SWITCH}=1 shows where]'
        print(f'error: {one_line(error)}{hint}', file=sys.stderr)
        sys.exit(2)


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks, with its type where that helps."""
    # str() of a KeyError quotes its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if isinstance(error, (InputError, ValueError, FileNotFoundError)) and text:
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
