"""tools/check_data.py: scan a data set before a long run, and say all that is wrong at once."""
from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from rich.text import Text

from mmeffnet.datasets.scan import scan
from mmeffnet.datasets.sources import KINDS, SPLITS, Problem, Source
from mmeffnet.engine.config import load_config
from mmeffnet.engine.data_checks import class_folder, list_and_folder
from mmeffnet.errors import InputError, check_numbers, one_line_errors
from mmeffnet.files import try_folder, whole
from mmeffnet.weights.data import dataset_configs

FEW = 5  # of each kind are printed; the report has all


def parser() -> ArgumentParser:
    """Arguments of tools/check_data.py."""
    result = ArgumentParser(
        description='Look through a data set for what would stop or spoil a training.',
        epilog='Exit code: 0 when nothing is wrong, 1 when something is, 2 for a wrong argument.')
    result.add_argument('data', help='folder with CLASS/*, or with {train,val,test}/CLASS/*, or '
                        'with lists in meta/{train,val}.txt')
    result.add_argument('--config', metavar='FILE', help='the config that will read the data: what '
                        'its data sets say of extensions and lists is heeded')
    result.add_argument('--num-classes', type=int, metavar='N', help="the config's num_classes")
    result.add_argument('--workers', type=int, default=0, metavar='N',
                        help='processes; all cores by default')
    result.add_argument('--max-pixels', type=int, default=100_000_000, metavar='N',
                        help='larger pictures are named; 100 million by default')
    result.add_argument('--report', default='work_dirs/check_data.json', metavar='FILE',
                        help='where all problems go; work_dirs/check_data.json by default')
    return result


def main(argv=None) -> int:
    """Run the tool; gives its exit code."""
    args = parser().parse_args(argv)
    if hasattr(sys.stdout, 'reconfigure'):  # names of files may not be text
        sys.stdout.reconfigure(errors='backslashreplace')
    console = Console(file=sys.stdout, highlight=False)
    with one_line_errors():
        check_numbers(args, 1, 'max_pixels', 'num_classes')
        check_numbers(args, 0, 'workers')
        check_report(Path(args.report))
        bar, root = Console(file=sys.stderr), Path(args.data)
        cfg = load_config(args.config) if args.config else None
        problems, counts = scan(
            root, extensions=extensions_of(cfg, root) if cfg else {},
            named=named_by(cfg, root) if cfg else None,
            num_classes=args.num_classes, workers=args.workers,
            max_pixels=args.max_pixels, progress=lambda items, total: track(
                items, 'pictures', total, console=bar, transient=True,
                disable=not bar.is_terminal))
        tell(console, problems)
        write_report(Path(args.report), problems, counts)
    files = ', '.join(f'{split} {count}' for split, count in counts.items())
    wrong = sum(KINDS[problem.kind] for problem in problems)
    console.print(Text(f'{files} pictures; {wrong} problems, {len(problems) - wrong} remarks; '
                       f'{args.report}'), soft_wrap=True)
    return 1 if wrong else 0


def extensions_of(cfg: Config, root: Path) -> dict[str, list[str]]:
    """The suffixes that a config takes from each split of ``root``, where it says any.

    Those of the data sets that read the split's folder, or else of all in the split's dataloader;
    without splits in that of the training. Raises InputError for extensions that are no list.
    """
    loaders = {split: [*dataset_configs(cfg, f'{split}_dataloader')] for split in SPLITS}
    found = {}
    for split in ('', *SPLITS):
        folder = (root / split).resolve()
        same = [(field, dataset) for field, dataset in chain(*loaders.values())
                if (read := class_folder(dataset)) and read.resolve() == folder]
        given = [(field, dataset['extensions']) for field, dataset
                 in same or loaders[split or 'train'] if 'extensions' in dataset]
        for field, value in given:
            if isinstance(value, str):  # CustomDataset would take each letter for a suffix
                raise InputError(f'{field}.extensions={value!r} must be a list of suffixes, such '
                                 f'as [{value!r}]')
        if given:
            found[split] = sorted({suffix for _, value in given for suffix in value})
    return found


def named_by(cfg: Config, root: Path) -> list[Source]:
    """Lists and class folders below ``root`` that a config names, by split.

    Not where all classes of a split are in ``root`` itself, which then is no split.
    """
    found = []
    for split in SPLITS:
        sources = []
        for _, dataset in dataset_configs(cfg, f'{split}_dataloader'):
            listed, folder = list_and_folder(dataset) or (None, class_folder(dataset))
            if not folder or not folder.resolve().is_relative_to(root.resolve()):
                continue
            # Without a list, root/train and root/val are looked for anyway, and may be absent.
            if listed or folder.is_dir() or folder.resolve() != (root / split).resolve():
                sources.append(Source(split, folder, listed))
        if any(source.listed or source.folder.resolve() != root.resolve() for source in sources):
            found += sources
    return found


def tell(console: Console, problems: list[Problem]) -> None:
    """Print how many problems of each kind there are, and the first of them."""
    for kind, number in Counter(problem.kind for problem in problems).most_common():
        style = 'bold red' if KINDS[kind] else 'bold'
        console.print(Text(f'{kind}: {number}', style))
        for problem in [p for p in problems if p.kind == kind][:FEW]:
            console.print(Text(f'  {problem.path}: {problem.reason}'), soft_wrap=True)


def check_report(path: Path) -> None:
    """Refuse a report that could not be written, before a scan that may take hours."""
    if path.is_dir():
        raise InputError(f'--report {str(path)!r} is a folder: name a file')
    try:
        try_folder(path.parent)
    except OSError as error:
        raise InputError(f'--report {str(path)!r} cannot be written: {error.strerror}') from error


def write_report(path: Path, problems: list[Problem], counts: dict[str, int]) -> None:
    """Write all problems as JSON, whole or not at all."""
    try:
        with whole(path) as part:
            part.write_text(json.dumps(dict(pictures=counts, problems=[
                asdict(problem) for problem in problems]), indent=1))
    except OSError as error:
        raise InputError(f'--report {str(path)!r} cannot be written: {error.strerror}') from error
