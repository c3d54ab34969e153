"""The bar chart of a benchmark. Drawn without pyplot: no global figures, no display."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mmeffnet.analysis.contenders import LEAN, OURS, OURS_DEPLOYED, OURS_SYMMETRIC
from mmeffnet.analysis.speed_rows import Row
from mmeffnet.engine.plots import blank_figure, save_figure

# Okabe and Ito's colours, told apart by every kind of colour vision; ours are blue.
# Each bar is named beside it, too.
COLOURS = {OURS: '#0072B2', OURS_SYMMETRIC: '#56B4E9', OURS_DEPLOYED: '#00446B',
           **dict(zip(LEAN, ('#2E5FA3', '#7A9FD4'), strict=True)),
           'mmpretrain': '#E69F00', 'timm': '#009E73', 'torchvision': '#CC79A7',
           'efficientnet_pytorch': '#999999'}
INK, FAINT = '#1B2733', '#66727D'

BAR, GAP = 0.84, 0.8         # of a bar's place; places between two settings
PLACE, PANEL = 0.24, 6.6     # inches: the height of a bar's place, the width of a panel
ROOM = 1.5                   # of the longest bar: for the names beside it


def chart(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw the rows into a PNG file."""
    save_figure(drawn(rows, title), path)


def drawn(rows: Sequence[Row], title: str) -> Figure:
    """Images a second as bars: a panel for each group, in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    width = min(2, len(groups))
    height = -(-len(groups) // width)
    places = max(len(group) + GAP * len({row.setting for row in group})
                 for group in groups.values())
    figure = blank_figure(PANEL * width, (PLACE * places + 0.85) * height + 0.7)
    figure.suptitle(textwrap.fill(title, 90 * width), fontsize=8.5, color=FAINT)
    panels = figure.subplots(height, width, squeeze=False).flatten()
    for axes, group in zip(panels, groups.values()):
        _panel(axes, group)
    for axes in panels[len(groups):]:
        axes.set_axis_off()
    return figure


def _panel(axes, rows: Sequence[Row]) -> None:
    most = max(row.batch / row.quartiles[0] for row in rows)
    place, ticks = 0.0, {}
    for setting in dict.fromkeys(row.setting.name for row in rows):
        inside = [row for row in rows if row.setting.name == setting]
        ticks[place + (len(inside) - 1) / 2] = setting.replace('+', '\n')
        for row in inside:
            _bar(axes, place, row, most)
            place += 1
        place += GAP
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8.5)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=8)
    axes.set_ylim(place - GAP, -1)
    axes.set_xlim(0, ROOM * most)
    axes.set_xlabel('images per second (longer is faster; line: quartiles)', fontsize=8.5,
                    color=FAINT)
    axes.set_title(rows[0].title, fontsize=11, color=INK, loc='left', fontweight='bold')
    axes.spines[['top', 'right']].set_visible(False)


def _bar(axes, place: float, row: Row, most: float) -> None:
    low, high = (row.batch / seconds for seconds in reversed(row.quartiles))
    axes.barh(place, row.throughput, BAR, color=COLOURS[row.library])
    axes.plot([low, high], [place, place], color=INK, linewidth=1.2, solid_capstyle='butt')
    axes.text(max(high, row.throughput) + 0.012 * most, place,
              f'{row.throughput:.4g}  {row.library}', va='center', fontsize=7.5, color=INK)
