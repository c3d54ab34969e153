"""tools/pack_images.py and tools/make_shards.py: write a data set as a few large files."""
from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console
from rich.progress import track

from mmeffnet.datasets import packed, shards
from mmeffnet.datasets.archive import MANIFEST, Archive, samples_of, write_archive
from mmeffnet.engine.config import explain, load_config
from mmeffnet.errors import InputError, RunError, check_numbers, one_line_errors

DEFAULT_SHORT_SIDE = 256
GO_ON = 'the same command goes on'


def pack(argv=None) -> int:
    """Run tools/pack_images.py; gives its exit code."""
    parser = _parser('Decode a data set once, into files that are mapped into memory.', packed.KIND)
    parser.add_argument('--short-side', type=int, default=DEFAULT_SHORT_SIDE, metavar='PIXELS',
                        help=f'{DEFAULT_SHORT_SIDE} by default; smaller pictures stay as they are')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), metavar='N',
                        help='threads; all cores by default')
    args = parser.parse_args(argv)
    with one_line_errors(go_on=GO_ON):
        check_numbers(args, 1, 'short_side', 'workers')
        return _run(args, packed.KIND, lambda: packed.packing(args.short_side, args.workers))


def shard(argv=None) -> int:
    """Run tools/make_shards.py; gives its exit code."""
    parser = _parser('Write a data set as tar files, as the library webdataset has them.',
                     shards.KIND)
    args = parser.parse_args(argv)
    with one_line_errors(go_on=GO_ON):
        return _run(args, shards.KIND, shards.sharding)


def _parser(description: str, kind: str) -> ArgumentParser:
    parser = ArgumentParser(
        description=description,
        epilog='What was interrupted goes on when the same command is given again. Exit code: 0, '
               'or 1 where --check finds a part that changed, or 2 for a wrong argument.')
    parser.add_argument('config', nargs='?', help='the config whose data set is written')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train',
                        help='whose dataloader the data set is of; train by default')
    parser.add_argument('--out', metavar='FOLDER', help=f'where the {kind} go')
    parser.add_argument('--images-per-part', type=int, default=4096, metavar='N',
                        help='4096 by default')
    parser.add_argument('--check', metavar='FOLDER',
                        help='read what was written before, and compare its sums')
    return parser


def _run(args: Namespace, kind: str, make) -> int:
    bar = Console(file=sys.stderr)

    def progress(items, total):
        return track(items, 'parts', total, console=bar, transient=True,
                     disable=not bar.is_terminal)
    if args.check:
        return _check(Archive(args.check, kind), progress)
    if not args.config or not args.out:
        raise InputError('CONFIG and --out FOLDER are needed, or --check FOLDER')
    check_numbers(args, 1, 'images_per_part')
    dataset = _dataset(args.config, args.split)
    samples, out = samples_of(dataset), Path(args.out)
    try:
        known = write_archive(out, make(), samples, args.images_per_part,
                              dataset.metainfo.get('classes'), progress)
    except OSError as error:
        text = f'--out {args.out!r} cannot be written: {error.strerror or error}'
        if not out.is_dir():
            raise InputError(text) from error
        free = shutil.disk_usage(out).free / 2 ** 30
        raise RunError(f'{text}; {free:.1f} GiB are free there. The parts that are there are kept: '
                       f'{GO_ON}') from error
    archive = Archive(out, kind)
    size = sum(part['bytes'] for part in archive.parts)
    print(f'{archive.samples:,} pictures in {len(archive.parts):,} parts, {size / 2 ** 30:.2f} GiB'
          f'{f", {known:,} of them there before" if known else ""}: {out / MANIFEST}')
    return 0


def _check(archive: Archive, progress) -> int:
    bad = archive.verify(progress)
    for name in bad:
        print(f'{archive.folder / name} is not what was written: remove {Path(name).stem}.* '
              'there, and give the command that wrote it again')
    print(f'{len(archive.parts) - len(bad):,} of {len(archive.parts):,} parts are as written')
    return 1 if bad else 0


def _dataset(config: str, split: str):
    """The data set of a config's dataloader, without its pipeline."""
    cfg = load_config(config)
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise InputError(f'config {config!r} has no {split}_dataloader')
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    try:
        return DATASETS.build(_without_pipeline(loader['dataset']))
    except Exception as error:
        raise InputError(f'{split}_dataloader.dataset cannot be built: '
                         f'{explain(error, cfg)}') from error


def _without_pipeline(dataset: dict) -> dict:
    """The config of a data set with an empty pipeline, or of a wrapper around such ones."""
    inner = {}
    if 'dataset' in dataset:
        inner['dataset'] = _without_pipeline(dataset['dataset'])
    if 'datasets' in dataset:
        inner['datasets'] = [*map(_without_pipeline, dataset['datasets'])]
    if not inner or 'pipeline' in dataset:
        inner['pipeline'] = []
    return dict(dataset, **inner)
