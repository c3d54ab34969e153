"""The figure of class-activation maps: the photograph, and each network's map beside it."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image

from mmeffnet.files import whole
from mmeffnet.inference.drawing import FAINT, INK, fitted, percent, short_name
from mmeffnet.inference.files import Places, mark_for

# Inches: the side of a map, the titles above it, gaps, and the room for the colour scale.
SIDE, TITLES, GAP, SCALE = 3.0, 0.78, 0.22, 1.0
NARROWEST, WIDEST = 0.75, 1.6  # of the photograph, in sides; its titles need 2.2 inches
MAPS_IN_ROW = 4
DPI = 130
COLOURS = 'inferno'  # brightness rises with the value: readable without colour


def save_figure(image: Image.Image, explanations: Sequence, path: Path, mark: str = '') -> None:
    """Write the figure as PNG, whole or not at all.

    explanations: :class:`mmeffnet.inference.maps.Explanation`, one for each network.
    mark: what the file says of whose figure it is, see ``place_of_figure``.
    """
    figure = draw_figure(image, explanations)
    with whole(path) as part:
        figure.savefig(part, dpi=DPI, format='png', metadata=dict(Comment=mark) if mark else None)


def place_of_figure(folder: Path, picture: Path) -> tuple[Path, str]:
    """The file for a picture's figure, and the mark in it that says whose it is.

    That is NAME_maps.png, or NAME_maps-2.png where that is another picture's: only a figure
    of the same picture is replaced.
    """
    mark = mark_for('mmeffnet explain', [picture])
    return Places(folder, '.png', mark=mark).place(Path(f'{picture.stem}_maps.png')), mark


def draw_figure(image: Image.Image, explanations: Sequence) -> Figure:
    """The photograph on the left, the maps in rows of up to ``MAPS_IN_ROW`` beside it."""
    columns = min(len(explanations), MAPS_IN_ROW)
    rows = -(-len(explanations) // columns)
    first = SIDE * min(max(image.width / image.height, NARROWEST), WIDEST)
    width = GAP + first + columns * (GAP + SIDE) + SCALE
    height = rows * (TITLES + SIDE + GAP)
    figure = Figure(figsize=(width, height))

    def panel(row: int, left: float, wide: float, *titles: str):
        top = height - row * (TITLES + SIDE + GAP) - TITLES
        for place, text in enumerate(titles):
            figure.text(left / width, (top + 0.49 - 0.21 * place) / height, text,
                        fontsize=12 if place == 0 else 10,
                        fontweight='bold' if place == 0 else 'normal',
                        color=FAINT if place == 2 else INK, va='baseline', parse_math=False)
        axes = figure.add_axes((left / width, (top - SIDE) / height, wide / width,
                                SIDE / height))
        axes.set_axis_off()
        return axes

    _photograph(panel(0, GAP, first, 'Photograph', 'framed: what the network sees'), image,
                explanations[0].box)
    for number, one in enumerate(explanations):
        row, column = divmod(number, columns)
        left = GAP + first + column * (GAP + SIDE) + GAP
        _map(panel(row, left, SIDE, *_titles(one)), image, one)
    _scale(panel(0, width - SCALE + GAP, 0.16))
    return figure


def overlay(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Brightness of the photograph in grey, under the colour of the heat.

    grey, heat: (H, W) in 0..1. Returns (H, W, 3) in 0..1. The more heat, the less of the
    photograph is left, so that the strongest places have the colours of the scale.
    """
    opacity = (0.3 + 0.4 * heat)[..., None]
    return grey[..., None] * (1 - opacity) + colormaps[COLOURS](heat)[..., :3] * opacity


def _photograph(axes, image: Image.Image, box) -> None:
    """The whole photograph, with a line around what the first network sees."""
    shrink = min(1, 2 * SIDE * DPI / max(image.size))
    size = [max(1, round(length * shrink)) for length in image.size]
    axes.imshow(image.resize(size), extent=(0, image.width, image.height, 0), aspect='equal')
    axes.set_anchor('NW')
    left, top, right, bottom = box
    for colour, line in (('black', 2.4), ('white', 1.2)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False,
                                 edgecolor=colour, linewidth=line))


def _map(axes, image: Image.Image, one) -> None:
    size = (round(SIDE * DPI), ) * 2
    left, top, right, bottom = one.box
    crop = image.resize(size, Image.Resampling.BICUBIC,  # rounding must not leave the picture
                        box=(max(0, left), max(0, top), min(image.width, right),
                             min(image.height, bottom)))
    heat = Image.fromarray(np.float32(one.heat)).resize(size, Image.Resampling.BICUBIC)
    grey = np.asarray(crop.convert('L'), dtype=np.float32) / 255
    axes.imshow(overlay(grey, np.clip(np.asarray(heat), 0, 1)), aspect='auto')


def _titles(one) -> tuple[str, str, str]:
    """The three lines above a map, cut to its width."""
    room = (SIDE - GAP / 2) * 72  # points

    share = percent(one.prediction.probability)
    if one.prediction.index != one.best.index:
        # The class was asked for, and the network would have said something else.
        share += ', best: '
        share += short_name(one.best.name, _points(10), room - _points(10)(share))
    return (fitted(one.title, _points(12, 'bold'), room),
            short_name(one.prediction.name, _points(10), room), share)


def _points(size: int, weight: str = 'normal'):
    """What measures a text in points: a W is five times as wide as an i, and $ is no formula."""
    font = FontProperties(size=size, weight=weight)

    def width(text: str) -> float:
        return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return width


def _scale(axes) -> None:
    """The colours as they look over a middle grey, with words: the values have no unit."""
    values = np.linspace(1, 0, 256)[:, None]
    axes.imshow(overlay(np.full_like(values, 0.5), values), aspect='auto', extent=(0, 1, 0, 1))
    for value, word, place in ((0, 'none', 'bottom'), (0.5, 'half', 'center'), (1, 'most', 'top')):
        axes.text(1.4, value, word, fontsize=9, color=INK, va=place)
    axes.text(0, 1.03, 'Evidence', fontsize=9, color=INK, transform=axes.transAxes)
