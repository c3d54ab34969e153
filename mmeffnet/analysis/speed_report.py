"""What a benchmark found, as Markdown, as CSV and as a bar chart."""
from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmeffnet.analysis.contenders import OURS, OURS_SYMMETRIC
from mmeffnet.analysis.speed import Ceilings, Row
from mmeffnet.analysis.steps import TRAIN
from mmeffnet.files import whole

# Okabe and Ito's colours, told apart by every kind of colour vision; ours are the blues.
COLOURS = {OURS: '#0072B2', OURS_SYMMETRIC: '#56B4E9', 'mmpretrain': '#E69F00',
           'timm': '#009E73', 'torchvision': '#CC79A7', 'efficientnet_pytorch': '#999999'}
MIB = 2 ** 20


def ratio(row: Row, rows: Sequence[Row], library: str, setting: str | None = None
          ) -> float | None:
    """Median of a row over that of ``library`` in the same group, None where that is missing.

    setting: of the other row; None for that of the row itself.
    """
    for other in rows:
        if (other.library == library and other.setting.name == (setting or row.setting.name)
                and group_of(other) == group_of(row)):
            return row.median / other.median
    return None


def group_of(row: Row) -> tuple:
    """What rows must share to be compared."""
    return row.variant, row.mode, row.batch, row.size


def title_of(row: Row) -> str:
    """'B0, training, batch 16, 224 px'."""
    mode = 'training' if row.mode == TRAIN else 'inference'
    return f'{row.variant}, {mode}, batch {row.batch}, {row.size} px'


def record(row: Row, rows: Sequence[Row], ceilings: Ceilings,
           baseline: tuple[str, str | None] | None = None) -> dict:
    """All numbers of a row by their column; None where there is none."""
    low, high = row.spread
    matrix = ceilings.matrix['bf16' in row.setting]
    return dict(
        variant=row.variant, mode=row.mode, batch=row.batch, pixels=row.size,
        setting=row.setting.name, library=row.library, ms=1e3 * row.median, ms_low=1e3 * low,
        ms_high=1e3 * high, rounds=len(row.seconds), images_per_s=row.throughput,
        vs_ours=ratio(row, rows, row.reference),
        vs_baseline=ratio(row, rows, *baseline) if baseline else None,
        first_call_s=row.first, peak_bytes=row.peak, moved_bytes=row.moved,
        saved_bytes=row.saved, multiply_adds=row.macs,
        bandwidth_percent=(100 * row.moved / row.median / ceilings.bandwidth if row.moved
                           else None),
        matrix_percent=100 * 2 * row.macs / row.median / matrix, compared_with=row.reference,
        difference=row.gap)


def header(device: torch.device, ceilings: Ceilings) -> str:
    """What was measured on, and its ceilings."""
    cuda = device.type == 'cuda'
    name = torch.cuda.get_device_name(device) if cuda else processor()
    float32 = 'TF32' if cuda else 'float32'
    rates = ', '.join(f'{rate / 1e12:.2f} TFLOP/s in {"bfloat16" if bf16 else float32}'
                      for bf16, rate in ceilings.matrix.items())
    return (f'{name}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads; a copy '
            f'moves {ceilings.bandwidth / 1e9:.1f} GB/s, matrix products reach {rates}.')


def processor() -> str:
    """The name of the CPU, and how many cores this process may use."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
             else os.cpu_count())
    return f'{names[0] if names else platform.machine()} ({cores} cores)'


def table(rows: Sequence[Row], ceilings: Ceilings,
          baseline: tuple[str, str | None] | None = None) -> str:
    """The rows of one group as a Markdown table under a heading."""
    cuda = any(row.peak is not None for row in rows)
    columns = {
        'setting': lambda r: r['setting'], 'library': lambda r: r['library'],
        'ms': lambda r: f'{r["ms"]:.4g}',
        'quartiles': lambda r: f'{r["ms_low"]:.4g} to {r["ms_high"]:.4g}',
        'images/s': lambda r: f'{r["images_per_s"]:.4g}',
        'time vs ours': lambda r: number(r['vs_ours'], '.2f'),
        **({f'time vs {" ".join(filter(None, baseline))}':
            lambda r: number(r['vs_baseline'], '.2f')} if baseline else {}),
        'first call s': lambda r: f'{r["first_call_s"]:.3g}',
        **({'peak MiB': lambda r: mib(r['peak_bytes'])} if cuda else {}),
        'moved MiB': lambda r: mib(r['moved_bytes']),
        **({'saved MiB': lambda r: mib(r['saved_bytes'])} if rows[0].mode == TRAIN else {}),
        '% bandwidth': lambda r: number(r['bandwidth_percent'], '.0f'),
        '% matrix': lambda r: number(r['matrix_percent'], '.1f'),
    }
    left = 2
    lines = [f'### {title_of(rows[0])}', '', f'| {" | ".join(columns)} |',
             f'|{"|".join("---" if i < left else "--:" for i in range(len(columns)))}|']
    for row in rows:
        found = record(row, rows, ceilings, baseline)
        lines.append(f'| {" | ".join(show(found) for show in columns.values())} |')
    return '\n'.join(lines)


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return '-' if value is None else format(value, form)


def mib(size: int | None) -> str:
    """Bytes in MiB."""
    return '-' if size is None else f'{size / MIB:.1f}'


def write_csv(rows: Sequence[Row], ceilings: Ceilings, baseline, path: Path) -> None:
    """All rows with all numbers in full."""
    records = [record(row, rows, ceilings, baseline) for row in rows]
    with whole(path) as part, part.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def chart(rows: Sequence[Row], title: str, path: Path) -> None:
    """Images a second as bars: a panel for each group, colours by library."""
    groups = list(dict.fromkeys(map(group_of, rows)))
    tallest = max(len([r for r in rows if group_of(r) == group]) for group in groups)
    width = min(2, len(groups))
    height = -(-len(groups) // width)
    figure = Figure(figsize=(7 * width, (0.28 * tallest + 1.2) * height + 0.6),
                    layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(height, width, squeeze=False).flatten()
    for axes, group in zip(panels, groups):
        _panel(axes, [row for row in rows if group_of(row) == group])
    for axes in panels[len(groups):]:
        axes.set_axis_off()
    with whole(path) as part:
        figure.savefig(part, dpi=130, format='png')


def _panel(axes, rows: Sequence[Row]) -> None:
    settings = list(dict.fromkeys(row.setting.name for row in rows))
    places, ticks, place = [], [], 0.0
    for setting in settings:
        inside = [row for row in rows if row.setting.name == setting]
        ticks.append(place + (len(inside) - 1) / 2)
        for row in inside:
            places.append((place, row))
            place += 1
        place += 0.7
    most = max(row.batch / row.spread[0] for row in rows)
    for at, row in places:
        low, high = (row.batch / seconds for seconds in reversed(row.spread))
        axes.barh(at, row.throughput, 0.86, color=COLOURS[row.library],
                  xerr=[[row.throughput - low], [high - row.throughput]],
                  error_kw=dict(ecolor='#1B2733', elinewidth=1))
        axes.text(high + 0.01 * most, at, f' {row.library}  {row.throughput:.4g}', va='center',
                  fontsize=7.5)
    axes.set_yticks(ticks, [s.replace('+', '\n') for s in settings], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * most)
    axes.set_xlabel('images per second, higher is better; whiskers: quartiles', fontsize=8)
    axes.set_title(title_of(rows[0]), fontsize=10)
    axes.spines[['top', 'right']].set_visible(False)
