"""The paper's search for alpha, beta and gamma: short trainings under one budget of cost.

Optuna keeps the trials (SQLite: several processes share it, and it survives a kill), hands them out
and stops bad ones early by successive halving. Chosen over Ray Tune because it needs no server and
no cluster: a file is the whole state.
"""
from __future__ import annotations

import itertools
import logging
import math
import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from mmeffnet.analysis.grid import ENDED, Grid
from mmeffnet.analysis.scaling_curves import Base
from mmeffnet.errors import InputError
from mmeffnet.scaling import ModelScaling

STUDY = 'coefficients'
HEARTBEAT, GRACE = 10, 40  # seconds; a process that is silent for longer was killed
DRAWS = 20_000
COST = 2  # of a phi, in multiples of the network at phi 0
Candidate = tuple[float, float, float]  # alpha, beta, gamma


def candidates(step: float = 0.2, tolerance: float = 0.1) -> list[Candidate]:
    """All alpha, beta and gamma in steps from 1 whose cost is within ``tolerance`` of 2.

    The cost is alpha * beta**2 * gamma**2, and the tolerance a share of it. Raises InputError
    where there are none.
    """
    if not 0 < step <= 1 or not 0 <= tolerance < 1:
        raise InputError(f'--step {step} must be above 0 and at most 1, --tolerance {tolerance} '
                         'from 0 to below 1')
    most = COST * (1 + tolerance)
    axes = [[round(1 + i * step, 6) for i in range(int((limit - 1) / step + 1e-9) + 1)]
            for limit in (most, math.sqrt(most), math.sqrt(most))]
    found = [(a, b, g) for a, b, g in itertools.product(*axes)
             if abs(a * b**2 * g**2 / COST - 1) <= tolerance + 1e-9]
    if not found:
        raise InputError(f'no coefficients in steps of {step} have a cost within {tolerance:g} of '
                         f'{COST:g}: take smaller steps or a larger tolerance')
    return found


def name_of(candidate: Candidate) -> str:
    return ' '.join(f'{value:g}' for value in candidate)


def open_study(folder: Path, space: Sequence[Candidate], seeds: Sequence[int],
               **training) -> optuna.Study:
    """The study in ``folder``, begun or gone on with; InputError for one with other questions.

    training: what else each trial depends on (config, epochs, base), as JSON has it. Trials of
    processes that were killed, interrupted or ended with an error are handed out once more. A study
    of which nothing has been trained yet takes any questions.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'--study {str(folder)!r} cannot be a folder ({error.strerror}): give '
                         'another') from error
    try:
        return _open_study(folder, space, seeds, training)
    except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(f'{str(folder / "study.db")!r} cannot be read as a study '
                         f'({type(error).__name__}): delete it, or give another --study') from error


def _open_study(folder, space, seeds, training: dict) -> optuna.Study:
    with warnings.catch_warnings():  # heartbeats have been called experimental since 2021
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            f'sqlite:///{folder / "study.db"}', heartbeat_interval=HEARTBEAT, grace_period=GRACE,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback())
    grid = {'candidate': [name_of(c) for c in space], 'seed': list(seeds)}
    settings = dict(storage=storage, study_name=STUDY, direction='maximize', load_if_exists=True,
                    sampler=Grid(grid, seed=0),
                    pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=2))
    study = optuna.create_study(**settings)
    asked = dict(grid=grid, training=training)
    if study.user_attrs not in ({}, asked) and not any(
            trial.state in ENDED | {TrialState.RUNNING} for trial in study.get_trials()):
        optuna.delete_study(study_name=STUDY, storage=storage)  # nothing is lost
        study = optuna.create_study(**settings)
    before = study.user_attrs.get('grid')
    if before not in (None, grid):
        raise InputError(f'{folder}: the study there asks for {len(before["candidate"])} '
                         f'candidates and seeds {before["seed"]}; give the same --step, '
                         '--tolerance and --seeds, or another --study')
    trained = study.user_attrs.get('training', training)
    if trained != training:
        raise InputError(f'{folder}: its trials were trained with {trained}, and now it is '
                         f'{training}; give the same, or another --study')
    for name, value in asked.items():
        study.set_user_attr(name, value)
    return study


def search(study: optuna.Study, base: Base, config: str, epochs: int, folder: Path,
           budget: float | None = None) -> None:
    """Run the trials that are left, until there are none or ``budget`` seconds are over."""
    from mmeffnet.analysis.trials import train, trial_config
    if study.sampler.is_exhausted(study):
        return  # Optuna would train one of them once more
    by_name = {name: tuple(map(float, name.split()))
               for name in study.user_attrs['grid']['candidate']}

    def objective(trial: optuna.Trial) -> float:
        grid = study.user_attrs['grid']
        alpha, beta, gamma = by_name[trial.suggest_categorical('candidate', grid['candidate'])]
        seed = trial.suggest_categorical('seed', grid['seed'])
        scaling = ModelScaling(width=beta, depth=alpha, resolution=round(base.resolution * gamma))
        cfg = trial_config(config, base.scaled(scaling), scaling.resolution, epochs, seed)

        def tell(epoch: int, accuracy: float) -> None:
            trial.report(accuracy, epoch)
            if epoch < epochs and trial.should_prune():
                raise optuna.TrialPruned

        return train(cfg, folder / f'trial{trial.number}', tell)[-1]

    logging.getLogger('optuna.study._optimize').addFilter(_without_traceback)
    study.optimize(objective, timeout=budget)


def _without_traceback(record: logging.LogRecord) -> bool:
    """An error that ends a trial ends the search as well, which tells it."""
    record.exc_info = None
    return True


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a candidate. means: of trials that ran to their end."""
    candidate: Candidate
    values: tuple[float, ...]
    pruned: int

    @property
    def mean(self) -> float:
        return statistics.mean(self.values) if self.values else math.nan


def results(study: optuna.Study) -> list[Result]:
    """All candidates, the best mean first; those that were always stopped early come last."""
    found = []
    for name in study.user_attrs['grid']['candidate']:
        trials = [t for t in study.get_trials(deepcopy=False)
                  if t.params.get('candidate') == name]
        # A trial that was handed out twice counts once.
        done = {t.params['seed']: t.value for t in trials if t.state == TrialState.COMPLETE}
        stopped = {t.params['seed'] for t in trials if t.state == TrialState.PRUNED}
        found.append(Result(candidate=tuple(map(float, name.split())),
                            values=tuple(done.values()), pruned=len(stopped - set(done))))
    return sorted(found, key=lambda r: (not r.values, -r.mean if r.values else 0))


def spread(found: Sequence[Result]) -> float:
    """Standard deviation of one training, pooled over candidates; NaN without repetitions."""
    squares = sum((len(r.values) - 1) * statistics.variance(r.values)
                  for r in found if len(r.values) > 1)
    freedom = sum(len(r.values) - 1 for r in found if len(r.values) > 1)
    return math.sqrt(squares / freedom) if freedom else math.nan


def confidence(found: Sequence[Result]) -> float:
    """The chance that the first is best, NaN where nothing was repeated.

    Each mean is drawn from a normal distribution around what was seen, with the pooled spread of
    one training over the root of its trainings. Candidates that were always stopped are left out.
    """
    some, sigma = [r for r in found if r.values], spread(found)
    if math.isnan(sigma) or not some:
        return math.nan
    draw = random.Random(0).gauss
    wins = 0
    for _ in range(DRAWS):
        values = [draw(r.mean, sigma / math.sqrt(len(r.values))) for r in some]
        wins += values[0] == max(values)
    return wins / DRAWS


def table(study: optuna.Study, base: Base) -> str:
    """Rows of Markdown with their uncertainty, and the sentence that says what was chosen."""
    found = results(study)
    sigma = spread(found)
    start = base.cost(ModelScaling(resolution=base.resolution)).multiply_adds
    rows = ['| alpha | beta | gamma | alpha beta^2 gamma^2 | multiply-adds / base | trainings '
            '| stopped early | top-1 (%) | standard error |', '|' + '---|' * 9]
    for r in found:
        a, b, g = r.candidate
        cost = base.cost(ModelScaling(width=b, depth=a, resolution=round(base.resolution * g)))
        error = sigma / math.sqrt(len(r.values)) if r.values else math.nan
        rows.append(f'| {a:g} | {b:g} | {g:g} | {a * b**2 * g**2:.2f} '
                    f'| {cost.multiply_adds / start:.2f} | {len(r.values)} | {r.pruned} '
                    f'| {_number(r.mean)} | {_number(error)} |')
    return '\n'.join([*rows, '', statement(found)])


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'


def statement(found: Sequence[Result]) -> str:
    """What was chosen, and how sure that is."""
    best = found[0]
    if not best.values:
        return 'No training has come to its end.'
    chosen = 'Chosen: alpha {:g}, beta {:g}, gamma {:g}'.format(*best.candidate)
    sure = confidence(found)
    if math.isnan(sure):
        return f'{chosen}. Nothing was trained twice, so nothing can be said of how sure that is.'
    return (f'{chosen}, the best of {sum(bool(r.values) for r in found)} that came to their end, '
            f'with a chance of {sure:.0%} by the spread of {spread(found):.2f} points between '
            f'seeds{"" if sure >= 0.95 else ": not settled by these trainings"}.')
