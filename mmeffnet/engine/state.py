"""What a run's checkpoint holds beside the weights, and how a run goes on from it."""
import random
from bisect import bisect
from functools import partial

import numpy as np
import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmeffnet.engine.accumulation import waiting
from mmeffnet.engine.checkpoint import bare_model
from mmeffnet.engine.parallel import joint_gradient, share_of
from mmeffnet.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Let a resumed run do what the uninterrupted one would have done, to the bit.

    Every checkpoint holds the random state, the place within the epoch, the gradients of a step
    that is not complete, and whether a validation was still to come: it is made before the
    training goes on. MMEngine's EarlyStoppingHook is told of the validations of before. The random
    state is that of the main process of rank 0; the order of the images follows from the sampler's
    seed, epoch and rank, what is drawn for one of them from SamplesHook: in loops by iteration,
    whose workers' state cannot be saved, without loading workers alone. Validation leaves the
    random state as it found it, so that how often one validates does not change the training.
    """
    # Before LoggerHook and CheckpointHook: nothing may draw in between.
    priority = 'VERY_HIGH'

    def __init__(self):
        self._resumed = self._before_val = self._gradients = None
        self._validation_due = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._validation_due = validation_due(runner, runner.iter + 1, runner.max_iters)

    def after_train_epoch(self, runner) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._validation_due = validation_due(runner, runner.epoch + 1, runner.max_epochs)

    def after_val_epoch(self, runner, metrics=None) -> None:
        # Before CheckpointHook, which writes the checkpoint of this step once more.
        self._validation_due = False

    def before_val(self, runner) -> None:
        self._before_val = random_state()

    def after_val(self, runner) -> None:
        set_random_state(self._before_val)
        self._before_val = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        # A new best score has the last checkpoint written again in the midst of validation.
        checkpoint['random_state'] = self._before_val or random_state()
        checkpoint['validation_due'] = self._validation_due
        # Of its config, else the run's, or what the processes agreed on where theirs differ.
        checkpoint['sampler_seed'] = getattr(sampler_of(runner.train_dataloader), 'seed', None)
        loop = runner.train_loop
        if hasattr(loop, 'batches_done'):
            # A checkpoint that is written at the end of an epoch belongs to the next.
            within = checkpoint['meta']['epoch'] == runner.epoch
            checkpoint['within_epoch'] = dict(done=loop.batches_done if within else 0,
                                              of=len(loop.dataloader))
        if waiting(runner.optim_wrapper):
            checkpoint['gradients'] = self._gradients

    def _save(self, save, runner, *args, **kwargs) -> None:
        """What is called to save, in every process: MMEngine has one alone go on from there, and
        the gradients of an open step are of all of them."""
        if waiting(runner.optim_wrapper):
            params = bare_model(runner.model).named_parameters()
            self._gradients = {
                name: joint_gradient(p.grad) for name, p in params if p.grad is not None}
        save(*args, **kwargs)
        self._gradients = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._resumed = None
        if runner._resume:
            self._resumed = {key: checkpoint.get(key) for key in (
                'random_state', 'within_epoch', 'gradients')}
            # Earlier versions have not kept it.
            self._resumed['sampler_seed'] = checkpoint.get(
                'sampler_seed', (checkpoint.get('meta') or {}).get('seed'))
            if checkpoint.get('validation_due'):
                runner.register_hook(_ValidationFirst())

    def before_train(self, runner) -> None:
        runner.save_checkpoint = partial(self._save, runner.save_checkpoint, runner)
        # Not while loading: MMEngine sets the seed once more after that. A fine-tuning from
        # someone's weights starts with its own seed.
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        if resumed['random_state']:
            set_random_state(resumed['random_state'])
        if resumed['within_epoch'] and hasattr(runner.train_loop, 'begin_at'):
            runner.train_loop.begin_at(**resumed['within_epoch'])
        if waiting(runner.optim_wrapper):
            for name, param in bare_model(runner.model).named_parameters():
                gradient = (resumed['gradients'] or {}).get(name)
                param.grad = None if gradient is None else share_of(
                    gradient.to(param.device), param)
            if resumed['gradients']:
                print_log('The step goes on with the gradients of its batches so far, which the '
                          "checkpoint has: MMEngine's warning of lost ones does not apply",
                          'current')
        # The order of the images came from this process's own seed so far.
        sampler = sampler_of(runner.train_dataloader)
        if hasattr(sampler, 'seed') and resumed['sampler_seed'] is not None:
            sampler.seed = resumed['sampler_seed']
        for hook in runner.hooks:
            # A class that inherits it may judge otherwise.
            if getattr(type(hook), 'after_val_epoch', None) is EarlyStoppingHook.after_val_epoch:
                recall_validations(runner, hook)

    def before_train_epoch(self, runner) -> None:
        # PyTorch draws a number whenever a loader begins, which in a resumed run happens at other
        # places than in the uninterrupted one: not from the state that the training draws from.
        runner.train_dataloader.generator = torch.Generator().manual_seed(
            runner.seed + runner.epoch)


class _ValidationFirst(Hook):
    """Makes the validation that a resumed run still owes, once every other hook is ready."""
    priority = 'LOWEST'

    def __init__(self):
        self._made = False  # a runner may train again

    def before_train(self, runner) -> None:
        if runner.val_loop is not None and not self._made:
            self._made = True
            print_log(f'The validation after {runner.iter} iterations was not completed: it is '
                      'made now', 'current')
            runner.val_loop.run()


def recall_validations(runner, hook: EarlyStoppingHook) -> None:
    """Bring a hook that judges validations to where it was: it saves nothing by itself.

    By the arguments it has now, so that more patience lets a run that was stopped go on.
    """
    scalars = runner.message_hub.log_scalars.get(f'val/{hook.monitor}')
    stop, why = False, ''
    for score in scalars.data[0].tolist() if scalars is not None else ():
        stop, why = hook._check_stop_condition(score)
    if stop:
        runner.train_loop.stop_training = True
        print_log(why, 'current')


def validation_due(runner, done: int, last: int) -> bool:
    """Whether the training loop validates after ``done`` of ``last`` epochs or iterations."""
    loop = runner.train_loop
    # As the loop does after its hooks: it sets ``val_interval`` only then.
    interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, done + 1) - 1]
    return (runner.val_loop is not None and done >= loop.val_begin
            and (done % interval == 0 or done == last))


def sampler_of(loader):
    """What gives a dataloader its order; a batch sampler of its own, such as mmdet's by shape, has
    that one, and the loader another that nobody asks."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def random_state() -> dict:
    """The state of Python, numpy and PyTorch, as tensors and numbers only."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = dict(python=random.getstate(), torch=torch.get_rng_state(),
                 numpy=(name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss))
    if torch.cuda.is_available():
        # Of this process's device: on the others it draws nothing, and other processes do.
        state['cuda'] = [torch.cuda.get_rng_state()]
    return state


def set_random_state(state: dict) -> None:
    """Go back to a state of ``random_state``."""
    name, keys, position, has_gauss, gauss = state['numpy']
    random.setstate(_as_tuples(state['python']))
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'][0].cpu())  # earlier versions kept all devices


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
