"""What a benchmark found, as Markdown and as CSV."""
from __future__ import annotations

import csv
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmeffnet.analysis.contenders import CHECKED_AT, TOLERANCE
from mmeffnet.analysis.speed_rows import Baseline, Ceilings, Row, record
from mmeffnet.analysis.steps import TRAIN
from mmeffnet.files import whole

MIB = 2 ** 20


def header(device: torch.device, ceilings: Ceilings) -> str:
    """What was measured on, and its ceilings."""
    cuda = device.type == 'cuda'
    name = torch.cuda.get_device_name(device) if cuda else processor()
    float32 = 'TF32' if cuda else 'float32'
    rates = ' and '.join(f'{rate / 1e12:.2f} TFLOP/s in {"bfloat16" if bf16 else float32}'
                         for bf16, rate in ceilings.matrix.items())
    threads = torch.get_num_threads()
    return (f'{name}, PyTorch {torch.__version__}, {threads} thread{"s" * (threads > 1)}. '
            f'A copy moves {ceilings.bandwidth / 1e9:.1f} GB/s, matrix products reach {rates}.')


def processor() -> str:
    """The name of the CPU, and how many cores this process may use."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
             else os.cpu_count())
    return (f'{names[0] if names else platform.machine()} '
            f'({cores} core{"s" * (cores > 1)} for this process)')


def table(rows: Sequence[Row], ceilings: Ceilings, baseline: Baseline | None = None) -> str:
    """The rows of one group as a Markdown table under a heading."""
    columns = _columns(rows, baseline)
    height, width = CHECKED_AT[-2:]
    lines = [f'### {rows[0].title}', '',
             f'Logits agree within {max(row.gap for row in rows):.1e} of the largest (float32, '
             f'{height}x{width} px; {TOLERANCE:.0e} is allowed).', '',
             f'| {" | ".join(columns)} |',
             f'|{"|".join("--:" if i > 1 else "---" for i in range(len(columns)))}|']
    for row in rows:
        found = record(row, rows, ceilings, baseline)
        lines.append(f'| {" | ".join(show(found) for show in columns.values())} |')
    return '\n'.join(lines)


def _columns(rows: Sequence[Row], baseline: Baseline | None) -> dict[str, Callable]:
    """The titles of the columns that these rows need, and what each shows of a record."""
    def number(key: str, form: str, unit: float = 1):
        return lambda found: '-' if found[key] is None else format(found[key] / unit, form)

    columns = {
        'setting': lambda found: found['setting'], 'library': lambda found: found['library'],
        'ms': number('ms', '.4g'),
        'quartiles': lambda found: f'{found["ms_low"]:.4g} to {found["ms_high"]:.4g}',
        'images/s': number('images_per_s', '.4g'), 'time / ours': number('vs_ours', '.2f')}
    if baseline:
        columns[f'time / {baseline}'] = number('vs_baseline', '.2f')
    columns['first call s'] = number('first_call_s', '.3g')
    if any(row.peak is not None for row in rows):
        columns['peak MiB'] = number('peak_bytes', '.1f', MIB)
    columns['moved MiB'] = number('moved_bytes', '.1f', MIB)
    if rows[0].mode == TRAIN:
        columns['saved MiB'] = number('saved_bytes', '.1f', MIB)
    columns['% of copy'] = number('bandwidth_percent', '.0f')
    columns['% of matrix'] = number('matrix_percent', '.2g')
    return columns


def write_csv(rows: Sequence[Row], ceilings: Ceilings, baseline: Baseline | None,
              path: Path) -> None:
    """All rows, with all numbers in full."""
    records = [record(row, rows, ceilings, baseline) for row in rows]
    with whole(path) as part, part.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)
