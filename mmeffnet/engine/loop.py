"""The training loop by epochs, which goes on in the midst of an epoch."""
import logging
from itertools import islice

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as MMEngineLoop

from mmeffnet.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(MMEngineLoop):
    """MMEngine's loop with its arguments, which resumes at the batch where a run was saved.

    MMEngine itself starts the epoch anew, with the counters of later. batches_done: how many
    batches of the present epoch are behind.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches_done = 0

    def begin_at(self, done: int, of: int) -> None:
        """Skip ``done`` batches of the next epoch, which has ``of`` of them."""
        if done and of != len(self.dataloader):
            print_log(f'The epoch had {of} batches when it was saved and has '
                      f'{len(self.dataloader)} now: it starts anew', 'current',
                      level=logging.WARNING)
            done = 0
        self.batches_done = done

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, batch in enumerate(self._batches(), start=self.batches_done):
            self.batches_done = idx + 1
            self.run_iter(idx, batch)
        self.batches_done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches(self):
        if self.batches_done:
            # PyTorch forbids another sampler, for which it has no way to skip batches. What is
            # skipped is not loaded.
            object.__setattr__(self.dataloader, 'batch_sampler',
                               _SkipOnce(self.dataloader.batch_sampler, self.batches_done))
        return self.dataloader


class _SkipOnce:
    """A batch sampler without its first batches, the first time that it is used."""

    def __init__(self, sampler, skip: int):
        self._sampler, self._skip = sampler, skip

    def __getattr__(self, name: str):
        return getattr(self._sampler, name)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self):
        # A loader with workers asks for a second iterator before it has used the first: only
        # one that is used counts.
        skip, self._skip = self._skip, 0
        yield from islice(self._sampler, skip, None)
