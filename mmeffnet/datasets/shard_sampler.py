"""The order of samples that suits storage which is slow at random places."""
import itertools
from collections.abc import Iterator
from numbers import Integral

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmeffnet.errors import InputError
from mmeffnet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ShardSampler(Sampler):
    """Shuffle the shards, and the samples of a few shards at a time.

    Every epoch has each sample once, whatever the number of processes. Each process has a run of
    the mixed samples, so it reads the windows in which its run lies, and shares those at both ends
    with its neighbours. With ``window`` equal to the number of shards the order is as random as
    ``DefaultSampler``'s.

    Args:
        dataset: ``ShardedImages`` with all its samples.
        window (int): Shards whose samples are mixed. Defaults to 16.
        shuffle (bool): False takes the samples as they lie, and gives them to the processes in
            turn, as ``DefaultSampler`` does: so MMEngine puts results together. Defaults to True.
        seed (int, optional): The same in all processes. Defaults to one that they agree on.
        round_up (bool): Repeat some samples so that all processes have the same number. Defaults
            to True.

    Raises InputError for another data set, ValueError for a window below 1.
    """

    def __init__(self, dataset, window: int = 16, shuffle: bool = True, seed: int | None = None,
                 round_up: bool = True):
        if not isinstance(window, Integral) or window < 1:
            raise ValueError(f'window={window!r} must be a whole number of at least 1')
        sizes = getattr(dataset, 'shard_sizes', None)
        if sizes is None or sum(sizes) != len(dataset):
            raise InputError('mmeffnet.ShardSampler needs mmeffnet.ShardedImages with all its '
                             f'samples, and was given {type(dataset).__name__} with '
                             f'{len(dataset):,}; use DefaultSampler')
        self._sizes, self._window, self._shuffle = sizes, window, shuffle
        # A resumed run sets it, as it does with MMEngine's samplers.
        self.seed = sync_random_seed() if seed is None else seed
        self._epoch, self._round_up = 0, round_up
        self._rank, self._processes = get_dist_info()

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        return (int(order[place % len(order)]) for place in itertools.chain(*self._places()))

    def __len__(self) -> int:
        return sum(map(len, self._places()))

    def _places(self) -> list[range]:
        """The places in the order that are this process's; those past its end begin it anew.

        MMEngine takes one result of each process in turn, and cuts what is above the number of
        samples: what is repeated comes last, in the last processes.
        """
        total = sum(self._sizes)
        share, longer = divmod(total, self._processes)
        repeats = bool(longer) and self._round_up and self._rank >= longer
        if not self._shuffle:
            end = total + (self._processes - longer if repeats else 0)
            return [range(self._rank, end, self._processes)]
        start = self._rank * share + min(self._rank, longer)
        own = range(start, start + share + (self._rank < longer))
        return [own, range(start, start + repeats)]

    def set_epoch(self, epoch: int) -> None:
        """Another epoch has another order."""
        self._epoch = epoch

    def _order(self) -> np.ndarray:
        starts = [0, *itertools.accumulate(self._sizes)]
        if not self._shuffle:
            return np.arange(starts[-1])
        random = np.random.default_rng([self.seed, self._epoch])
        shards = random.permutation(len(self._sizes))
        windows = []
        for first in range(0, len(shards), self._window):
            window = np.concatenate([np.arange(starts[shard], starts[shard + 1])
                                     for shard in shards[first:first + self._window]])
            windows.append(random.permutation(window))
        return np.concatenate(windows)
