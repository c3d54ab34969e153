"""What a data set names and is not there: counted, and refused before the first step."""
import logging
from collections.abc import Collection
from pathlib import Path

from mmengine.logging import print_log

from mmeffnet.errors import InputError


def not_there(paths: Collection[Path]) -> set[Path]:
    """The files that are missing. Folders are listed once: asking for each of 118,000 files takes
    minutes on slow storage."""
    found = set()
    for folder in {path.parent for path in paths}:
        try:
            found.update(folder.iterdir() if folder.is_dir() else ())
        except PermissionError:  # it may be entered and not be listed
            found.update(path for path in paths if path.parent == folder and path.is_file())
    return {*paths} - found


def refuse(text: str, way_out: str, loader: str, lacking: int, most: int, what: str) -> None:
    """Raise InputError where more than ``most`` samples lack something; else warn of them.

    what: a word for such samples, of which the training alone may leave some out.
    """
    if lacking > most:
        leave = (f', or leave up to N {what} out with default_hooks.samples.max_skips=N'
                 if loader == 'train_dataloader' else '')
        raise InputError(f'{text}. {way_out}{leave}')
    print_log(text, 'current', level=logging.WARNING)
