"""Pictures of a run. Drawn without pyplot: no global figures, no display.

Names are drawn with parse_math=False: matplotlib takes what is between two $ for a formula.
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmeffnet.files import whole

MOST_CLASSES = 40  # labels of more classes cannot be read
MOST_NUMBERS = 20  # nor the counts inside the cells
VALIDATED = 'epoch_of_validation'
BLUE, ORANGE = '#0072B2', '#D55E00'  # told apart by every kind of colour vision


def learning_curve(scalars: Mapping[str, tuple], steps_per_epoch: int, path: Path,
                   done: int | None = None) -> bool:
    """Draw training loss, validation accuracy and learning rate over epochs.

    scalars: MMEngine's history by name, each (values, counts), and under ``VALIDATED`` the epochs
    that had passed at each validation. done: iterations of the run, where MMEngine, which keeps
    the last million numbers, may have dropped the first. Returns whether there was anything to
    draw.
    """
    panels = [(name, colour, title) for name, colour, title in (
        ('train/loss', BLUE, 'Training loss'),
        (_first(scalars, 'val/'), ORANGE, 'Validation'),
        (_first(scalars, 'train/lr', 'train/base_lr'), BLUE, 'Learning rate'))
        if name in scalars]
    if not panels:
        return False
    figure = blank_figure(4.2 * len(panels), 3.4)
    for axes, (name, colour, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                           panels):
        values = np.asarray(scalars[name][0], dtype=float)
        if name.startswith('val/'):
            epochs = np.asarray(scalars.get(VALIDATED, ((), ()))[0], dtype=float)
            if len(epochs) != len(values):  # of an earlier version, which noted none
                passed = len(scalars['train/loss'][0]) / steps_per_epoch
                epochs = np.linspace(passed / len(values), passed, len(values))
            axes.plot(epochs, values, 'o-', color=colour, markersize=4)
            value, epoch = best(epochs, values, name)
            title += f', best {value:.2f} in epoch {epoch:g}' if math.isfinite(value) else ''
            axes.set_ylabel(f'{name.removeprefix("val/")} (%)' if 'accuracy' in name
                            else name.removeprefix('val/'), parse_math=False)
        else:
            last = len(values) if done is None else done
            epochs = np.arange(last - len(values) + 1, last + 1) / steps_per_epoch
            # One step that was left out would be in every mean after it.
            epochs, values = epochs[np.isfinite(values)], values[np.isfinite(values)]
            if name == 'train/loss':
                axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.8)
                values = smooth(values, max(1, steps_per_epoch // 2))
            axes.plot(epochs, values, color=colour)
        axes.set_title(title)
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    save_figure(figure, path)
    return True


def confusion_matrix(pairs: Sequence[tuple[int, int]], classes: Sequence[str],
                     path: Path) -> None:
    """Draw how often each true class (rows) was taken for each class (columns).

    pairs: (true, predicted) class indices.
    """
    total = len(classes)
    counts = np.zeros((total, total), dtype=int)
    np.add.at(counts, tuple(np.asarray(pairs).T), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.5, 0.32 * total + 2)
    figure = blank_figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(100 * share, cmap='Blues', vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label='share of the true class (%)', shrink=0.8)
    names = [str(name) for name in classes]
    shorter = [name.split(', ')[0] for name in names]  # of synonyms, as ImageNet has them
    names = shorter if len(set(shorter)) == len(set(names)) else names
    axes.set_xticks(range(total), names, rotation=0 if max(map(len, names)) < 3 else 90,
                    parse_math=False)
    axes.set_yticks(range(total), names, parse_math=False)
    axes.set_xlabel('predicted class')
    axes.set_ylabel('true class')
    right = counts.trace()
    axes.set_title(f'{right} of {counts.sum()} right ({100 * right / counts.sum():.2f} %)')
    if total <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(column, row, count, ha='center', va='center', fontsize=8,
                          color='white' if share[row, column] > 0.5 else 'black')
    save_figure(figure, path)


def _first(scalars: Mapping, *prefixes: str) -> str | None:
    """The first scalar with one of the prefixes, timings aside."""
    return next((name for prefix in prefixes for name in scalars
                 if name.startswith(prefix) and not name.endswith('time')), None)


def best(steps: np.ndarray, values: np.ndarray, key: str) -> tuple[float, float]:
    """The best value and its place: the largest, of losses and errors the smallest.

    Numbers that are not finite are left out; both are NaN where there are no others.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return math.nan, math.nan
    down = any(word in key.lower() for word in ('loss', 'error'))
    index = np.argmin(values[finite]) if down else np.argmax(values[finite])
    return values[finite][index], steps[finite][index]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` values at each place, of fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def blank_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout='constrained')


def save_figure(figure: Figure, path: Path) -> None:
    with whole(path) as part:
        figure.savefig(part, dpi=130, format='png')
