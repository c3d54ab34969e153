"""How single images are loaded: the same in any worker, and named when they are bad."""
import logging
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmeffnet.datasets.shard_sampler import ShardSampler
from mmeffnet.datasets.tally import Tally
from mmeffnet.engine.bad_samples import SampleError, way_out, what_is_wrong
from mmeffnet.engine.seg_maps import Labels, labels_of
from mmeffnet.engine.state import random_state, sampler_of, set_random_state
from mmeffnet.registry import HOOKS


class Skips(Tally):
    """The bad images that all workers together may leave out."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def take(self, line: str, left_out: torch.Tensor | None = None, index=None) -> None:
        """Count one more, an image that was left out before not again.

        left_out: uint8, one for each image of its data set, in shared memory. index: the image's.
        Raises SampleError where there are too many.
        """
        if left_out is not None and index is not None and 0 <= index < len(left_out):
            if left_out[index]:
                return
            left_out[index] = 1
        if self.add(line) > self.most:
            raise SampleError(f'{line}; max_skips={self.most} others were left out before')


class SamplePipeline:
    """A data set's pipeline that draws by epoch and sample, and names what it cannot load.

    seed: None leaves the random state alone. epoch: an int64 tensor of one number, in shared
    memory; of the iteration where there are no epochs. drawn: counts what was drawn, so that a
    sample that comes again draws anew; None has it draw the same. skips: None lets bad images
    end the run. left_out: see :meth:`Skips.take`. training: whether bad images could be left out,
    were it asked for. labels: what the maps of segmentation data may have, None to look at none.
    A sample without an index leaves the random state alone.
    """

    def __init__(self, pipeline, *, seed=None, epoch=None, drawn: Counter | None = None,
                 skips: Skips | None = None, left_out: torch.Tensor | None = None,
                 training: bool = True, labels: Labels | None = None):
        self.inner, self.seed, self.epoch = pipeline, seed, epoch
        self.drawn, self.skips, self.training = drawn, skips, training
        self.left_out, self.labels = left_out, labels

    def __getattr__(self, name: str):
        if name == 'inner':  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, data: dict):
        index, path, seg_map = (data.get(key) for key in ('sample_idx', 'img_path', 'seg_map_path'))
        way = way_out(data, self.training)  # transforms change this dict
        seeded = self.seed is not None and index is not None
        # In the main process the pipeline must not change what dropout draws.
        before = random_state() if seeded and torch.utils.data.get_worker_info() is None else None
        if seeded:
            seed_all(self._numbers(int(index)))
        try:
            packed = self.inner(data)
            if self.labels:
                self.labels.check(packed, seg_map, self.training)
            return packed
        except Exception as error:
            line = what_is_wrong(error, index, path, seg_map)
            if self.skips is None:
                raise SampleError(f'{line}. {way}') from error
            self.skips.take(line, self.left_out, index)
            return None  # data sets of MMEngine draw another sample then
        finally:
            if before is not None:
                set_random_state(before)

    def _numbers(self, index: int) -> list[int]:
        """What a sample's random state is made of."""
        numbers = (*self.seed, int(self.epoch), index)
        if self.drawn is None:
            return [*numbers]
        times = self.drawn[numbers]
        self.drawn[numbers] += 1
        return [*numbers, times] if times else [*numbers]


def seed_all(numbers: list[int]) -> None:
    """Set the random state of Python, numpy and PyTorch's CPU from some numbers."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))


@HOOKS.register_module()
class SamplesHook(Hook):
    """Random transforms follow from seed, epoch and sample, whichever worker runs them.

    So a run can be resumed within an epoch, and gives the same with any number of workers.
    It applies to data sets that know their samples' indices, alone, concatenated or split into
    folds; where data set or sampler may repeat samples within an epoch the workers' own state
    goes on. In training by iterations they follow from seed, iteration, sample and how often it
    came before in the batch where there are no workers; those keep their own state.

    Args:
        max_skips (int): How many images that cannot be loaded are replaced by others in a
            training, before and after it is resumed, each counted and named in the log once by
            each process that meets it; the next ends it. Defaults to 0: the first ends it.
    """
    priority = 'VERY_LOW'  # hooks that exchange a pipeline have done so

    def __init__(self, max_skips: int = 0):
        if not isinstance(max_skips, int) or max_skips < 0:
            raise ValueError(f'max_skips={max_skips!r} must be at least 0, a whole number')
        self._skips = Skips(max_skips) if max_skips else None
        self._left_out: list[torch.Tensor] = []  # flags of images, by data set
        # How many images there were in the checkpoint, and which were left out.
        self._resumed: list[tuple[int, list[int]]] = []
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._drawn = Counter()  # in the present batch
        self._by_epoch = True

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._skips:
            checkpoint['samples'] = dict(skipped=self._skips.count, left_out=[
                (len(flags), flags.nonzero().flatten().tolist()) for flags in self._left_out])

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and self._skips:
            found = checkpoint.get('samples', {})
            self._resumed = found.get('left_out', [])
            self._skips.go_on_from(found.get('skipped', 0))

    def _flags(self, place: int, dataset) -> torch.Tensor:
        """Which images of the data set are left out, as all loading workers see it."""
        if place == len(self._left_out):
            self._left_out.append(torch.zeros(len(dataset), dtype=torch.uint8).share_memory_())
            images, left_out = (self._resumed[place] if place < len(self._resumed) else (0, ()))
            if images == len(dataset):  # of another data set they would be other images
                self._left_out[place][left_out] = 1
        return self._left_out[place]

    def before_train_epoch(self, runner) -> None:
        # Endless loops have no epoch, and would draw the same for a sample each time; their
        # workers are ahead of the iterations.
        self._by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        self._epoch.fill_(runner.epoch if self._by_epoch else runner.iter)
        loader = runner.train_dataloader
        known = gives_once(loader) if self._by_epoch else not loader.num_workers
        drawn, loop = None, runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            drawn = self._drawn
            loop.dataloader_iterator = _CountingAnew(loop.dataloader_iterator, drawn)
        for place, (dataset, once) in enumerate(parts(loader.dataset)):
            guard(dataset, seed=[runner.seed, place] if known and once else None,
                  epoch=self._epoch, drawn=drawn, skips=self._skips,
                  left_out=self._flags(place, dataset) if self._skips else None,
                  labels=labels_of(dataset, lambda: runner.model.modules()))

    def before_val_epoch(self, runner) -> None:
        for dataset, _ in parts(runner.val_dataloader.dataset):
            guard(dataset, training=False,
                  labels=labels_of(dataset, lambda: runner.val_evaluator.metrics))

    def before_test_epoch(self, runner) -> None:
        for dataset, _ in parts(runner.test_dataloader.dataset):
            guard(dataset, training=False,
                  labels=labels_of(dataset, lambda: runner.test_evaluator.metrics))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self._by_epoch:
            self._epoch.fill_(runner.iter + 1)
        for number, line in self._skips.lines() if self._skips else ():
            _tell(f'Left out, {number} of at most {self._skips.most} so far: {line}')
        _name_faults(runner.train_dataloader)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        _name_faults(runner.val_dataloader)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        _name_faults(runner.test_dataloader)


class _CountingAnew(Iterator):
    """A loop's batches, each of which begins with nothing drawn: some versions of MMEngine load
    what a resumed run passes over, all before its first iteration.
    """

    def __init__(self, batches, drawn: Counter):
        self._batches, self._drawn = batches, drawn

    def __getattr__(self, name: str):
        return getattr(self._batches, name)

    def __next__(self):
        self._drawn.clear()
        return next(self._batches)


def _name_faults(loader) -> None:
    """Write what went wrong at the storage, and was put right by trying again, into the log."""
    for dataset, _ in parts(loader.dataset):
        faults = getattr(dataset, 'faults', None)
        for number, line in faults.lines() if faults else ():
            _tell(f'Storage, fault {number} so far: {line}')


def _tell(line: str) -> None:
    """Log a warning; from other processes than the first, whose loggers pass on errors alone."""
    rank = get_rank()
    print_log(f'Process {rank}: {line}' if rank else line, 'current',
              level=logging.ERROR if rank else logging.WARNING)


def gives_once(loader) -> bool:
    """Whether the loader's sampler is known to give each sample once in an epoch."""
    return isinstance(sampler_of(loader), (DefaultSampler, ShardSampler))


def parts(dataset) -> Iterator[tuple]:
    """The data sets with a pipeline, and whether each sample occurs once in an epoch."""
    if isinstance(dataset, ConcatDataset):
        for inner in dataset.datasets:
            yield from parts(inner)
    elif callable(getattr(dataset, 'pipeline', None)):
        yield dataset, hasattr(dataset, 'get_data_info')
    elif hasattr(dataset, 'dataset'):
        fold = type(dataset).__name__ == 'KFoldDataset'  # mmpretrain's; others repeat samples
        for inner, once in parts(dataset.dataset):
            yield inner, once and fold


def guard(dataset, **how) -> None:
    """Give a data set a SamplePipeline, unless it has one."""
    if not isinstance(dataset.pipeline, SamplePipeline):
        dataset.pipeline = SamplePipeline(dataset.pipeline, **how)
