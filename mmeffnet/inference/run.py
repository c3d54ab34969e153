"""Prediction from a command line: check everything first, then go through the pictures."""
from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmeffnet import host
from mmeffnet.errors import INTERRUPTED, InputError, one_line_errors
from mmeffnet.files import try_folder, whole
from mmeffnet.inference.files import ANNOTATED, Found, Places, collect, printable
from mmeffnet.inference.images import read_image
from mmeffnet.inference.tables import Tables

FEW = 10  # failures that are named once more at the end


def predict(args: Namespace) -> int:
    """tools/predict.py; gives the exit code. Exits with 2 and one line for a wrong argument."""
    with one_line_errors(OSError):
        out = output_folder(args.out)
        found = collect(args.inputs, out)
        if args.topk < 1:
            raise InputError(f'--topk {args.topk} must be above 0')
        with _quiet_imports():
            from mmeffnet.inference.predictor import Predictor
        predictor = Predictor(args.weights, device=args.device, batch_size=args.batch_size,
                              resampler=args.resampler, classes=args.classes)
        if predictor.network.device.type == 'cpu':
            host.keep_freed_memory()
        report = Report(out, predictor, found, pictures=not args.no_pictures)
        try:
            with report.running() as advance:
                outcomes = predictor.stream((path for path, _ in found.pictures), args.topk)
                for outcome, (_, place) in zip(outcomes, found.pictures):
                    report.add(outcome, place)
                    advance()
        except KeyboardInterrupt:
            return INTERRUPTED
    return 1 if report.tables.failed else 0


@contextmanager
def _quiet_imports():
    """For PyTorch and mmpretrain, which are imported after the cheap checks."""
    with warnings.catch_warnings():
        # Of mmcv-lite, about operators that no classifier needs.
        warnings.filterwarnings('ignore', message='Fail to import')
        yield


class Report:
    """Prints and writes outcomes, one after the other, and sums up at the end."""

    def __init__(self, out: Path, predictor, found: Found, pictures: bool):
        self.console = terminal(sys.stdout)
        network = predictor.network
        self.title, self.left_alone = network.title, found.left_alone
        self.mark, self.total = found.mark, len(found.pictures)
        self.tables = Tables(out, found.mark, weights=network.source, network=network.variant,
                             resolution=network.settings.resolution,
                             resampler=network.settings.resampler)
        self.places = Places(out / ANNOTATED, '.jpg',
                             [path for path, _ in found.pictures],
                             found.mark) if pictures else None

    def add(self, outcome, place: Path) -> None:
        """Print one outcome and write its picture; a failure is named and counted."""
        if outcome.error:
            self._fail(outcome.source, outcome.error.reason)
            return
        picture = None
        if self.places:
            picture = self.places.place(place)
            try:
                self._draw(outcome, picture)
            except OSError as error:
                self._fail(outcome.source, f'the annotated picture {printable(picture)} cannot '
                           f'be written ({error.strerror or error})')
                picture = None
        self.tables.add(outcome.source, outcome.predictions, picture)
        self.console.print(Text(printable(outcome.source), 'bold'), soft_wrap=True)
        self.console.print(_bars(outcome.predictions, self.console.width))

    @contextmanager
    def running(self):
        """A progress bar for several pictures; what was read is kept whatever happens."""
        # Beside piped output the bar goes to the terminal all the same.
        console = self.console if self.console.is_terminal else terminal(sys.stderr)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(),
                   TimeRemainingColumn())
        bar = Progress(*columns, console=console, transient=True,
                       disable=self.total < 2 or not console.is_terminal)
        try:
            with bar:
                task = bar.add_task('pictures', total=self.total)
                yield lambda: bar.advance(task)
        except BaseException:  # Ctrl-C is one
            self._finish(complete=False)
            raise
        self._finish(complete=True)

    def _draw(self, outcome, picture: Path) -> None:
        from mmeffnet.inference.drawing import annotated
        drawn = annotated(outcome.image, outcome.predictions, self.title,
                          printable(Path(outcome.source).name))
        with whole(picture) as part:
            # Full colour resolution: small coloured letters would be smeared.
            drawn.save(part, 'JPEG', quality=92, subsampling=0, comment=self.mark)

    def _fail(self, source, reason: str) -> None:
        self.tables.fail(source, reason)
        self.console.print(Text.assemble((printable(source), 'bold'), (' failed: ', 'bold red'),
                                         reason), soft_wrap=True)

    def _finish(self, complete: bool) -> None:
        """Finish the tables, and sum up. complete: whether the run came to its end."""
        written = self.tables.close(complete)
        failed, seen = self.tables.failed, len(self.tables.images)
        self.console.print(f'{self.title}: {seen} read, {len(failed)} failed'
                           + (f', {self.left_alone} not named like a picture and left alone'
                              if self.left_alone else ''))
        for row in failed[:FEW]:
            self.console.print(Text(f'  {printable(row["file"])}: {row["reason"]}'), soft_wrap=True)
        if len(failed) > FEW:
            self.console.print(f'  and {len(failed) - FEW} more in {printable(written[2])}')
        if not written:
            self.console.print('ended before the first picture: no tables are written')
            return
        if not complete:
            self.console.print(f'ended early: these tables are of {seen} of {self.total} pictures')
        folder = f' and {ANNOTATED}/' if self.places and seen else ''
        self.console.print(Text(f'{", ".join(map(printable, written))}{folder}'), soft_wrap=True)


def _bars(predictions, width: int) -> Table:
    """Percentages, bars, indices and names, in lines of at most ``width`` characters."""
    from mmeffnet.inference.drawing import percent, short_name
    bar, index = 24, len(str(max(one.index for one in predictions)))
    table = Table.grid(padding=(0, 1))
    for rank, one in enumerate(predictions):
        # Cut here: a table that is too wide would give up the bars first.
        name = short_name(one.name, len, max(8, width - bar - index - 11))
        table.add_row(Text(f'{percent(one.probability):>8}'), ProgressBar(
            total=1, completed=one.probability, width=bar, complete_style='blue',
            finished_style='blue'), Text(f'{one.index:>{index}}', 'dim'),
            Text(name, 'bold' if rank == 0 else ''))
    return table


def output_folder(out: str) -> Path:
    """The folder, made and tried; InputError where nothing can be written to it."""
    folder = Path(out)
    try:
        try_folder(folder)
    except OSError as error:
        raise InputError(f'--out {printable(out)}: nothing can be written there '
                         f'({error.strerror or error})') from error
    return folder


def terminal(stream) -> Console:
    """A console that replaces what the stream's encoding lacks, and does not guess at styles."""
    if hasattr(stream, 'reconfigure'):
        stream.reconfigure(errors='replace')
    return Console(file=stream, highlight=False)


def explain(args: Namespace) -> int:
    """tools/explain.py; gives the exit code 0. Exits with 2 and one line for a wrong argument."""
    with one_line_errors(OSError):
        folder = output_folder(args.out)
        image = read_image(args.image)
        with _quiet_imports():
            from mmeffnet.inference import maps
            from mmeffnet.inference.figure import place_of_figure, save_figure
        maps.check_weights(args.weights)
        console = terminal(sys.stdout)
        found = maps.explain(image, args.weights, method=args.method, wanted=args.wanted,
                             device=args.device, classes=args.classes)
        path, mark = place_of_figure(folder, Path(args.image))
        save_figure(image, found, path, mark)
        for one in found:
            console.print(Text(f'{one.title} ({printable(one.source)})', 'bold'))
            console.print(_bars([one.prediction], console.width))
        console.print(Text(printable(path)), soft_wrap=True)
    return 0
