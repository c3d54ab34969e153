"""Steps of several batches."""
from functools import partial

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmeffnet.registry import HOOKS


def waiting(wrapper) -> bool:
    """Whether gradients are being accumulated for a step that is still to come."""
    if isinstance(wrapper, OptimWrapperDict):  # which is an OptimWrapper, and has no count
        return any(map(waiting, wrapper.values()))
    return isinstance(wrapper, OptimWrapper) and not wrapper.should_update()


@HOOKS.register_module()
class StepAveragesHook(Hook):
    """Average weights once a step where several batches make one, right after the step.

    For MMEngine's EMAHook and all that derive from it, with any average. An ``interval`` counts
    calls from the first on: most averages would be updated just before the step, and the weights
    of the last, shorter one would be missing.
    """

    def before_train(self, runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.ema_model.interval = 1
                hook.after_train_iter = partial(_after_step, hook.after_train_iter)


def _after_step(update, runner, *args, **kwargs) -> None:
    if not waiting(runner.optim_wrapper):
        update(runner, *args, **kwargs)
