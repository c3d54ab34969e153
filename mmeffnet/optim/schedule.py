"""The staircase of the reference recipe, by iteration."""
import math
from fractions import Fraction
from numbers import Real

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from mmeffnet.registry import PARAM_SCHEDULERS

INF = int(1e9)  # MMEngine's own


@PARAM_SCHEDULERS.register_module()
class StaircaseParamScheduler(_ParamScheduler):
    """Linear warm-up, then a fall by ``gamma`` every so many epochs, counted from step 0.

    At step t, with N steps in an epoch, the value is that of the optimizer times
    t / (warmup N) before the end of the warm-up, and times gamma ** floor(t / (step N)) from
    then on. The warm-up does not delay the staircase: at its end some stairs are behind.

    Args:
        optimizer (BaseOptimWrapper | Optimizer): Whose parameter groups are changed.
        param_name (str): What is scheduled, such as 'lr'.
        step (float): Height of a stair, in epochs. Defaults to 2.4.
        gamma (float): Factor from stair to stair. Defaults to 0.97.
        warmup (float): Epochs of warm-up. Defaults to 5.
        begin, end, last_step, by_epoch, verbose: As in MMEngine's schedulers. In a config
            set ``convert_to_iter_based=True``: the steps are then iterations.

    Raises ValueError naming the argument, its value and the rule.
    Source: build_learning_rate in the reference TPU code.
    """

    def __init__(self, optimizer, param_name, step=2.4, gamma=0.97, warmup=5, begin=0, end=INF,
                 last_step=-1, by_epoch=True, verbose=False):
        _check_epochs(step, warmup)
        if not 0 < gamma <= 1:
            raise ValueError(f'gamma={gamma!r} must be above 0, at most 1')
        self.stair, self.gamma, self.warmup = step, gamma, warmup
        super().__init__(optimizer, param_name=param_name, begin=begin, end=end,
                         last_step=last_step, by_epoch=by_epoch, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(cls, *args, step=2.4, warmup=5, begin=0, end=INF, by_epoch=True,
                              epoch_length=None, **kwargs):
        """The scheduler by iteration; ``epoch_length`` is the number of iterations an epoch."""
        if not by_epoch or not epoch_length:
            raise ValueError('convert_to_iter_based=True needs by_epoch=True and an epoch')
        _check_epochs(step, warmup)
        # 2.4 means exactly that: as a float 2.4 * 626 lies below 1502.4, and the stairs after
        # it may come one step early.
        return cls(*args, step=float(Fraction(str(step)) * epoch_length),
                   warmup=int(Fraction(str(warmup)) * epoch_length),
                   begin=int(begin * epoch_length),
                   end=end if end == INF else int(end * epoch_length), by_epoch=False, **kwargs)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a saved state; with the same stairs to the end that was given here.

        So a run that is resumed with more epochs keeps falling. Other stairs, or epochs of another
        length, are replaced by the saved ones, as in all of MMEngine's schedulers.
        """
        same = all(state_dict.get(key) == getattr(self, key)
                   for key in ('begin', 'stair', 'gamma', 'warmup', 'by_epoch'))
        super().load_state_dict({**state_dict, 'end': self.end} if same else state_dict)

    def _get_value(self):
        factor = self.factor(self.last_step)
        return [value * factor for value in self.base_values]

    def factor(self, step: int) -> float:
        """What the optimizer's own value is multiplied by at a step."""
        if step < self.warmup:
            return step / self.warmup
        return self.gamma ** int(Fraction(step) / Fraction(str(self.stair)))


def _check_epochs(step, warmup) -> None:
    if not (_is_finite(step) and step > 0):
        raise ValueError(f'step={step!r} must be above 0, and finite: gamma=1 has no stairs')
    if not (_is_finite(warmup) and warmup >= 0):
        raise ValueError(f'warmup={warmup!r} must be at least 0, and finite')


def _is_finite(value) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@PARAM_SCHEDULERS.register_module()
class StaircaseLR(LRSchedulerMixin, StaircaseParamScheduler):
    """:class:`StaircaseParamScheduler` of the learning rate."""
