"""Accuracy over cost when depth, width or resolution grows alone, and when all grow together."""
from __future__ import annotations

import csv
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmeffnet.analysis.complexity import complexity
from mmeffnet.analysis.targets import Found, Ratio, nearest
from mmeffnet.arch import Arch
from mmeffnet.engine.plots import BLUE, ORANGE, blank_figure, save_figure
from mmeffnet.errors import InputError, one_line
from mmeffnet.files import whole
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import MBCONV

# What grows with each phi, by the name of the curve; a side of any length.
DIRECTIONS = {'depth': dict(alpha=1.2, beta=1, gamma=1), 'width': dict(alpha=1, beta=1.1, gamma=1),
              'resolution': dict(alpha=1, beta=1, gamma=1.15), 'compound': {}}
# Colour, marker and line, so that no curve needs its colour.
STYLES = {'depth': ('#E69F00', 's', '--'), 'width': ('#009E73', '^', '-.'),
          'resolution': (BLUE, 'v', ':'), 'compound': (ORANGE, 'o', '-')}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network of a curve: its direction, how many times the cost it was made for."""
    direction: str
    times: float
    width: float
    depth: float
    resolution: int
    multiply_adds: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Base:
    """The network at 1x: B0's table scaled by ``width`` and ``depth``, at ``resolution``."""
    width: float = 0.35
    depth: float = 0.5
    resolution: int = 64
    classes: int = 10

    @property
    def arch(self) -> Arch:
        return ModelScaling(width=self.width, depth=self.depth).apply(MBCONV)

    def scaled(self, scaling: ModelScaling) -> Arch:
        return scaling.apply(self.arch)

    def cost(self, scaling: ModelScaling):
        return complexity(self.scaled(scaling), scaling.resolution, num_classes=self.classes)


def points(base: Base, times: Sequence[float]) -> list[Point]:
    """The networks of all curves: one at 1x for all, then each direction at each cost.

    Raises InputError for a cost that a direction does not reach.
    """
    start = base.cost(ModelScaling(resolution=base.resolution)).multiply_adds
    result = []
    for direction, factor in itertools.product(DIRECTIONS, times):
        if factor == 1 and result:
            continue
        ratio = Ratio(**DIRECTIONS[direction], resolution=base.resolution, step=1)
        around = nearest(lambda s: base.cost(s).multiply_adds, factor * start, ratio)
        found: Found = around[0]
        if len(around) == 1:
            raise InputError(f'--times {factor:g}: {direction} reaches {found.cost / start:.3g} '
                             'times the cost of the base at most; ask for less')
        cost = base.cost(found.scaling)
        result.append(Point(
            direction='base' if factor == 1 else direction, times=factor,
            width=found.scaling.width, depth=found.scaling.depth,
            resolution=found.scaling.resolution, multiply_adds=cost.multiply_adds,
            parameters=cost.parameters))
    return result


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: its point and seed, what it reached, and how long it was trained on what."""
    point: Point
    seed: int
    top1: float
    seconds: float
    epochs: int
    config: str

    def row(self) -> dict:
        return {**asdict(self.point), 'seed': self.seed, 'top1': f'{self.top1:.3f}',
                'seconds': f'{self.seconds:.1f}', 'epochs': self.epochs, 'config': self.config}


def read(path: Path) -> list[Run]:
    """The runs that a file holds; none where there is no file. InputError for a torn one."""
    if not path.exists():
        return []
    kinds = {field.name: {'str': str, 'int': int, 'float': float}[field.type]
             for field in fields(Point)}
    try:
        with path.open(newline='') as file:
            return [Run(point=Point(**{name: kind(row[name]) for name, kind in kinds.items()}),
                        seed=int(row['seed']), top1=float(row['top1']), config=row['config'],
                        seconds=float(row['seconds']), epochs=int(row['epochs']))
                    for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'{str(path)!r} is no whole table of runs ({one_line(error)}): '
                         'delete it, or name another') from error


def write(runs: Sequence[Run], path: Path) -> None:
    with whole(path) as part, part.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(runs[0].row()), lineterminator='\n')
        writer.writeheader()
        writer.writerows(run.row() for run in runs)


def trained(base: Base, config: str, wanted: Sequence[Point], seeds: Sequence[int], epochs: int,
            path: Path, budget: float = math.inf) -> Iterator[Run]:
    """Train what ``path`` does not hold yet, seed by seed, and add each run to it.

    budget: seconds after which no further run is begun. Raises InputError where ``path`` holds
    runs of another length or config.
    """
    from mmeffnet.analysis.trials import train, trial_config
    start, runs = time.monotonic(), read(path)
    other = next((r for r in runs if (r.epochs, r.config) != (epochs, config)), None)
    if other:
        raise InputError(f'{str(path)!r} holds runs of {other.epochs} epochs of {other.config!r}: '
                         'give the same --epochs and --config, or another --out')
    done = {(run.point, run.seed) for run in runs}
    for seed, point in itertools.product(dict.fromkeys(seeds), wanted):
        if (point, seed) in done:
            continue
        if time.monotonic() - start > budget:
            return
        arch = base.scaled(ModelScaling(width=point.width, depth=point.depth))
        begun = time.monotonic()
        cfg = trial_config(config, arch, point.resolution, epochs, seed)
        name = f'curve-{point.direction}-{point.times:g}-{seed}'
        top1 = train(cfg, path.parent / name)[-1]
        runs.append(Run(point=point, seed=seed, top1=top1, epochs=epochs, config=config,
                        seconds=time.monotonic() - begun))
        write(runs, path)
        yield runs[-1]


def summary(runs: Sequence[Run]) -> dict[Point, tuple[float, float, int]]:
    """Mean top-1, its standard error (NaN for one seed) and seeds of each point."""
    result = {}
    for point in dict.fromkeys(run.point for run in runs):
        values = [run.top1 for run in runs if run.point == point]
        error = (statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1
                 else math.nan)
        result[point] = statistics.mean(values), error, len(values)
    return result


def table(runs: Sequence[Run]) -> str:
    """Rows of Markdown."""
    rows = ['| direction | cost | width | depth | px | M multiply-adds | K parameters | seeds '
            '| top-1 (%) | standard error |', '|' + '---|' * 10]
    for p, (mean, error, seeds) in summary(runs).items():
        rows.append(f'| {p.direction} | {p.times:g}x | {p.width:.3g} | {p.depth:.3g} '
                    f'| {p.resolution} | {p.multiply_adds / 1e6:.2f} | {p.parameters / 1e3:.0f} '
                    f'| {seeds} | {mean:.2f} | {error:.2f} |')
    return '\n'.join(rows)


def draw(runs: Sequence[Run], title: str, path: Path) -> None:
    """The curves, with bars of one standard error of the mean over the seeds."""
    found = summary(runs)
    base = [(p, found[p]) for p in found if p.direction == 'base']
    figure = blank_figure(6.4, 4.4)
    axes = figure.subplots()
    for place, (direction, (colour, marker, line)) in enumerate(STYLES.items()):
        some = base + [(p, found[p]) for p in found if p.direction == direction]
        if len(some) < 2:
            continue
        # A little apart, so that bars at one cost do not hide each other.
        costs = [p.multiply_adds / 1e6 * 1.015 ** (place - 1.5) for p, _ in some]
        axes.errorbar(costs, [mean for _, (mean, _, _) in some],
                      [0 if math.isnan(error) else error for _, (_, error, _) in some],
                      color=colour, marker=marker, linestyle=line, linewidth=2, markersize=7,
                      capsize=3, label=direction)
    axes.set_xscale('log', base=2)
    ticks = sorted({p.times * base[0][0].multiply_adds / 1e6 for p in found}) if base else []
    axes.set_xticks(ticks, [f'{tick:.3g}' for tick in ticks], fontsize=11)
    axes.tick_params(axis='y', labelsize=11)
    axes.set_xlabel('multiply-adds of one image (millions, log scale)', fontsize=12)
    axes.set_ylabel('top-1 accuracy (%)', fontsize=12)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=11)
    save_figure(figure, path)
