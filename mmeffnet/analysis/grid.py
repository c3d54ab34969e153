"""A grid of trials that are tried until each has ended."""
import optuna
from optuna.samplers import GridSampler
from optuna.trial import TrialState

ENDED = {TrialState.COMPLETE, TrialState.PRUNED}  # with something to be kept


class Grid(GridSampler):
    """Optuna's, which would not hand out again what was interrupted or ended with an error."""

    def _get_unvisited_grid_ids(self, study: optuna.Study) -> list[int]:
        """What was never begun; without it what only failed; then what has not ended yet."""
        states = {index: set() for index in range(self._n_min_trials)}
        for trial in study.get_trials(deepcopy=False):
            if 'grid_id' in trial.system_attrs:
                states[trial.system_attrs['grid_id']].add(trial.state)
        left = {index: found for index, found in states.items() if not found & ENDED}
        for wanted in (set(), {TrialState.FAIL}):
            if some := [index for index, found in left.items() if found == wanted]:
                return some
        return list(left)
