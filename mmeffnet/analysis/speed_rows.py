"""What is found about each candidate of a benchmark, and what follows from it."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmeffnet.analysis.steps import TRAIN, Setting


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Bytes a second of a copy; operations a second of a matrix product, by bfloat16 or not."""
    bandwidth: float
    matrix: dict[bool, float]


@dataclass(frozen=True)
class Baseline:
    """A row to compare others with. setting: None for that of the other row."""
    library: str
    setting: str | None = None

    def __str__(self):
        return ' '.join(filter(None, (self.library, self.setting)))


@dataclass(kw_only=True)
class Row:
    """One network in one setting.

    reference: which of ours computes the same. gap: how far their logits are apart, in float32
    on the CPU. first: seconds of the first call. moved, saved, peak: bytes, None where they do
    not apply. macs: multiply-adds of a step. seconds: of a step, one for each round.
    """
    variant: str
    mode: str
    batch: int
    size: int
    setting: Setting
    library: str
    reference: str
    gap: float
    macs: int
    first: float = 0.0
    moved: int | None = None
    saved: int | None = None
    peak: int | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def group(self) -> tuple:
        """What rows have to share to be compared."""
        return self.variant, self.mode, self.batch, self.size

    @property
    def name(self) -> str:
        """All that tells the row from others, for messages."""
        return (f'{self.variant} {self.mode} batch {self.batch} {self.setting.name} '
                f'{self.library}')

    @property
    def title(self) -> str:
        """Of the group: 'b0, training, batch 16, 224 px'."""
        mode = 'training' if self.mode == TRAIN else 'inference'
        return f'{self.variant}, {mode}, batch {self.batch}, {self.size} px'

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return low, high

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.batch / self.median


def ratio(row: Row, rows: Sequence[Row], baseline: Baseline) -> float | None:
    """Median of a row over that of the baseline in its group, None where that is missing."""
    wanted = baseline.library, baseline.setting or row.setting.name, row.group
    for other in rows:
        if (other.library, other.setting.name, other.group) == wanted:
            return row.median / other.median
    return None


def record(row: Row, rows: Sequence[Row], ceilings: Ceilings, baseline: Baseline | None = None
           ) -> dict:
    """All numbers of a row by the name of their column; None where there is none."""
    low, high = row.quartiles
    matrix = ceilings.matrix['bf16' in row.setting]
    return dict(
        variant=row.variant, mode=row.mode, batch=row.batch, pixels=row.size,
        setting=row.setting.name, library=row.library, ms=1e3 * row.median, ms_low=1e3 * low,
        ms_high=1e3 * high, ms_least=1e3 * min(row.seconds),
        rounds=len(row.seconds), images_per_s=row.throughput,
        vs_ours=ratio(row, rows, Baseline(row.reference)),
        vs_baseline=ratio(row, rows, baseline) if baseline else None,
        first_call_s=row.first, peak_bytes=row.peak, moved_bytes=row.moved,
        moved_counted_by='compiler' if 'compile' in row.setting else 'operation',
        saved_bytes=row.saved, multiply_adds=row.macs,
        bandwidth_percent=(100 * row.moved / row.median / ceilings.bandwidth if row.moved
                           else None),
        matrix_percent=100 * 2 * row.macs / row.median / matrix, same_as=row.reference,
        difference=row.gap)
