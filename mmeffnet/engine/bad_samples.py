"""What is said of a sample that cannot be loaded, and what to do about it."""
import os
import shlex

from mmeffnet.engine.seg_maps import MapError
from mmeffnet.errors import RunError, one_line


class SampleError(RunError):
    """An image that cannot be read or transformed."""


def what_is_wrong(error: Exception, index, path, seg_map) -> str:
    """A sample by its files, or by its number where it has none, and what its pipeline says."""
    if isinstance(error, MapError):  # names both files
        return one_line(error)
    name = (f'image {str(path)!r}' if path else f'sample {index}') + (
        f' with map {str(seg_map)!r}' if seg_map else '')
    return f'{name} cannot be loaded: {_empty(path, seg_map) or one_line(error)}'


def _empty(path, seg_map) -> str:
    """Which file of a sample is empty, for decoders say nothing that one could read."""
    for words, file in (('the file', path), ("the map's file", seg_map)):
        if file and os.path.isfile(file) and not os.path.getsize(file):
            return f'{words} is empty'
    return ''


def way_out(data: dict, training: bool) -> str:
    """What to do about a sample that is ``data`` as its data set gives it, before transforms."""
    path = str(data.get('img_path', ''))
    if path.startswith('shard://'):  # leaving pictures out would hide a shard of other pictures
        from mmeffnet.datasets.shards import ADDRESS  # of mmpretrain's runs alone
        if address := ADDRESS.match(path):
            folder = os.path.dirname(address[1]) or '.'
            return 'Compare the archive: ' + shlex.join(['tools/make_shards.py', '--check', folder])
    # That tool reads the files of classifiers.
    look = 'Look through the data with tools/check_data.py and repair it' \
        if path and 'gt_label' in data and 'img' not in data else 'Repair it'
    # What is measured would change with what is left out.
    return look + (', or leave up to N such images out with default_hooks.samples.max_skips=N'
                   if training else ': only the training leaves images out')
