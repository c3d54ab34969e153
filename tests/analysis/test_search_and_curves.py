"""The search for coefficients and the scaling curves: arithmetic, going on, and what is said."""
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmeffnet.analysis import curves_cli, scaling_curves
from mmeffnet.analysis.scaling_curves import Base, Run, draw, points, read, summary, table
from mmeffnet.errors import InputError, RunError
from mmeffnet.scaling import ModelScaling

optuna = pytest.importorskip('optuna', reason='pip install optuna')
from mmeffnet.analysis import coefficient_search as search  # noqa: E402
from mmeffnet.analysis import search_cli, trials  # noqa: E402

TINY = Base(width=0.2, depth=0.2, resolution=32)
SOME = [(1.0, 1.4, 1.0), (1.4, 1.2, 1.0), (2.0, 1.0, 1.0)]


@pytest.mark.parametrize(('step', 'tolerance'), [(0.2, 0.1), (0.1, 0.02), (0.05, 0.01)])
def test_candidates_keep_the_cost_and_none_is_left_out(step, tolerance):
    found = search.candidates(step, tolerance)
    assert all(abs(a * b**2 * g**2 - 2) <= 2 * tolerance + 1e-6 and min(a, b, g) >= 1
               for a, b, g in found)
    ticks = [round(1 + i * step, 6) for i in range(int(1.3 / step) + 1)]
    assert len(found) == sum(abs(a * b**2 * g**2 - 2) <= 2 * tolerance + 1e-9
                             for a in ticks for b in ticks for g in ticks)


@pytest.mark.parametrize(('given', 'places'), [
    (None, ['0', '1', '0']), ('2,3', ['2', '3', '2']), ('a,b', ['a', 'b', 'a'])])
def test_workers_share_the_devices_that_they_were_given(given, places, monkeypatch):
    found = []

    class Process:
        def __init__(self, command, env):
            found.append(env['CUDA_VISIBLE_DEVICES'])

        def wait(self):
            return 0
    monkeypatch.setattr(subprocess, 'Popen', Process)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if given:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', given)
    search_cli._processes(3, [])
    assert found == places


def test_a_grid_without_candidates_is_refused():
    with pytest.raises(InputError, match='no coefficients in steps of 0.7 have a cost within 0'):
        search.candidates(0.7, 0)


@pytest.fixture
def asked(instant, monkeypatch):
    """Networks and sizes of the trainings of ``instant``."""
    found, before = [], trials.trial_config

    def config(base, arch, resolution, *args):
        found.append((arch, resolution))
        return before(base, arch, resolution, *args)

    monkeypatch.setattr(trials, 'trial_config', config)
    return found


@pytest.fixture
def instant(monkeypatch):
    """Trainings that end at once: accuracy by candidate and seed, told epoch by epoch."""
    ran = []

    def train(cfg, work_dir, tell=None):
        width, depth, seed = cfg
        ran.append(cfg)
        values = [50 + 10 * width - depth + 0.1 * seed + epoch for epoch in (1, 2, 3)]
        for epoch, value in enumerate(values, start=1):
            if tell:
                tell(epoch, value)
        return values

    def config(base, arch, resolution, epochs, seed):
        return arch.stages[0].channels, sum(s.repeats for s in arch.stages), seed

    monkeypatch.setattr(trials, 'train', train)
    monkeypatch.setattr(trials, 'trial_config', config)
    return ran


def test_every_candidate_is_tried_with_every_seed_and_nothing_twice(instant, tmp_path):
    study = search.open_study(tmp_path, SOME, [0, 1])
    search.search(study, TINY, '', 3, tmp_path)
    assert len(instant) == 6
    again = search.open_study(tmp_path, SOME, [0, 1])
    search.search(again, TINY, '', 3, tmp_path)
    assert len(instant) == 6
    counts = [len(r.values) + r.pruned for r in search.results(again)]
    assert counts == [2, 2, 2]
    # Successive halving stopped some of them.
    assert any(r.pruned for r in search.results(again))


def test_a_trial_has_the_network_of_its_candidate_and_the_best_mean_comes_first(asked, tmp_path):
    space = [(1.2, 1.0, 1.4), (1.0, 1.4, 1.0)]
    study = search.open_study(tmp_path, space, [0, 1])
    search.search(study, TINY, '', 1, tmp_path)
    for alpha, beta, gamma in space:
        arch = TINY.scaled(ModelScaling(depth=alpha, width=beta))
        assert asked.count((arch, round(32 * gamma))) == 2
    best, other = search.results(study)
    # 16 channels and 7 blocks, or 8 and 14; nothing is stopped in the only epoch.
    assert (best.candidate, sorted(best.values)) == (space[1], [206, pytest.approx(206.1)])
    assert (other.candidate, sorted(other.values)) == (space[0], [119, pytest.approx(119.1)])
    assert re.search(r'\| 1 \| 1.4 \| 1 \| 1.96 \| .* \| 2 \| 0 \| 206.05 \| 0.05 \|',
                     search.table(study, TINY))


@pytest.mark.parametrize('turn', [1, -1])
def test_the_best_is_never_stopped_early(turn, instant, tmp_path):
    """In whatever order they come."""
    space = [(1 + 0.5 * depth, 1.0, 1.0) for depth in range(4)]  # the fewer blocks the better
    study = search.open_study(tmp_path, space[::turn], [0])
    search.search(study, TINY, '', 3, tmp_path)
    best = search.results(study)[0]
    assert (best.candidate, len(best.values)) == (space[0], 1)


def test_what_was_interrupted_or_failed_is_tried_again_and_last(instant, tmp_path, monkeypatch,
                                                               caplog):
    def broken(cfg, work_dir, tell):
        raise errors.pop()

    errors, train = [KeyboardInterrupt, RuntimeError], trials.train
    for kind in reversed(errors):
        monkeypatch.setattr(trials, 'train', broken)
        study = search.open_study(tmp_path, SOME, [0])
        with pytest.raises(kind):
            search.search(study, TINY, '', 3, tmp_path)
    told = [record for record in caplog.records if 'KeyboardInterrupt' in record.getMessage()]
    assert [record.exc_info for record in told] == [None]  # no traceback before the way on
    failed = [trial.params['candidate'] for trial in study.trials]
    monkeypatch.setattr(trials, 'train', train)
    search.search(search.open_study(tmp_path, SOME, [0]), TINY, '', 3, tmp_path)
    assert [r.pruned + len(r.values) for r in search.results(study)] == [1, 1, 1]
    assert len(instant) == 3  # none twice
    tried = [trial.params['candidate'] for trial in study.trials]
    assert tried[2] not in failed
    assert set(tried[3:]) == set(failed)


def test_a_candidate_that_always_fails_hides_no_other(instant, tmp_path, monkeypatch, capsys):
    first = []

    def train(cfg, *args, well=trials.train):
        first.append(cfg)
        if cfg == first[0]:
            raise MemoryError('too wide')
        return well(cfg, *args)
    monkeypatch.setattr(trials, 'train', train)
    monkeypatch.setattr(search_cli, '_rehearse', lambda *args: None)
    for _ in range(2):
        capsys.readouterr()
        with pytest.raises(MemoryError):
            search_cli.main(['--study', str(tmp_path), '--step', '0.2', '--seeds', '0'])
    assert len(instant) > 3  # all others
    assert 'Chosen: alpha' in capsys.readouterr().out


def test_a_trial_of_a_killed_process_is_handed_out_again(instant, tmp_path, monkeypatch):
    monkeypatch.setattr(search, 'HEARTBEAT', 1)
    monkeypatch.setattr(search, 'GRACE', 1)
    study = search.open_study(tmp_path, SOME[:1], [0])
    lost = study.ask()
    lost.suggest_categorical('candidate', [search.name_of(SOME[0])])
    lost.suggest_categorical('seed', [0])
    study._storage.record_heartbeat(lost._trial_id)
    import time
    time.sleep(2.5)  # silent for longer than the grace
    again = search.open_study(tmp_path, SOME[:1], [0])
    search.search(again, TINY, '', 3, tmp_path)
    assert [len(r.values) for r in search.results(again)] == [1]


KILLED = """
import sys, time
from pathlib import Path
from mmeffnet.analysis import coefficient_search as search, trials
from mmeffnet.analysis.scaling_curves import Base

def train(cfg, work_dir, tell=None):
    tell(1, 50.)
    print('begun', flush=True)
    time.sleep(float(sys.argv[1]))
    return [50.]

trials.train, trials.trial_config = train, lambda *args: None
study = search.open_study(Path('study'), [(1.0, 1.4, 1.0), (2.0, 1.0, 1.0)], [0])
search.search(study, Base(), '', 1, Path('study'))
print(sorted(len(r.values) for r in search.results(study)))
"""


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-c', KILLED]
    with subprocess.Popen([*command, '600'], cwd=tmp_path, text=True,
                          stdout=subprocess.PIPE) as first:
        while 'begun' not in first.stdout.readline():  # libraries may print before
            assert first.poll() is None
        first.kill()
    done = subprocess.run([*command, '0'], cwd=tmp_path, text=True, capture_output=True,
                          timeout=120)
    assert done.stdout.splitlines()[-1] == '[1, 1]', done.stderr


def test_a_study_with_other_questions_is_refused(instant, tmp_path):
    search.search(search.open_study(tmp_path, SOME, [0]), TINY, '', 3, tmp_path)
    with pytest.raises(InputError, match=r'asks for 3 candidates and seeds \[0\]; give the same'):
        search.open_study(tmp_path, SOME[:2], [0])


def result(mean, apart, count=3):
    return search.Result(candidate=(1, 1.4, 1), pruned=0,
                         values=tuple(mean + apart * (i - 1) for i in range(count)))


def test_the_chance_of_being_best_follows_the_spread():
    assert search.confidence([result(90, 0.1), result(80, 0.1)]) == 1
    assert search.confidence([result(90, 1), result(90, 1)]) == pytest.approx(0.5, abs=0.02)
    # Means one apart with standard errors of 1 / sqrt(3): P(N(0, 1) < 1 / sqrt(2/3)) = 0.89.
    assert search.confidence([result(91, 1), result(90, 1)]) == pytest.approx(0.89, abs=0.02)
    assert math.isnan(search.confidence([result(90, 1, count=1)]))


def test_what_was_chosen_is_said_with_how_sure_it_is():
    assert 'with a chance of 100%' in search.statement([result(90, 0.1), result(80, 0.1)])
    assert 'not settled by these trainings' in search.statement([result(90, 1), result(90, 1)])
    assert 'nothing can be said' in search.statement([result(90, 1, count=1)])


def test_workers_that_end_with_an_error_end_the_command_with_one():
    with pytest.raises(RunError, match='2 of 2 workers ended with an error'):
        search_cli._processes(2, ['--epochs', '0'])


def test_a_family_is_written_with_the_chosen_coefficients(tmp_path):
    from mmengine.config import Config
    args = search_cli.parser().parse_args(['--study', str(tmp_path), '--write-family', '2'])
    paths = search_cli.write_family(args, search.Result(
        candidate=(1.4, 1.2, 1.0), values=(1.0, ), pruned=0))
    configs = [Config.fromfile(path) for path in paths]
    assert [c.model.backbone.scaling.width for c in configs] == [1.0, 1.2, 1.44]
    assert [c.model.backbone.scaling.depth for c in configs] == [1.0, 1.4, 1.96]


def test_points_cost_what_they_are_for():
    found = points(Base(), [1, 2, 4, 8])
    assert [p.direction for p in found] == ['base', *(d for d in scaling_curves.DIRECTIONS
                                                      for _ in range(3))]
    for p in found:
        assert p.multiply_adds / found[0].multiply_adds == pytest.approx(p.times, rel=0.2)
        grown = dict(width=p.width > 1, depth=p.depth > 1, resolution=p.resolution > 64)
        if p.direction in grown:
            assert [name for name, value in grown.items() if value] == [p.direction]


def runs():
    return [Run(point=p, seed=seed, top1=90 + seed + p.times, seconds=1.0, epochs=3,
                config='digits.py')
            for p in points(TINY, [1, 2]) for seed in (0, 1)]


def test_runs_survive_their_file_and_are_summed_up(tmp_path):
    scaling_curves.write(runs(), tmp_path / 'runs.csv')
    assert read(tmp_path / 'runs.csv') == runs()
    mean, error, seeds = summary(runs())[runs()[0].point]
    assert (mean, seeds) == (91.5, 2)
    assert error == pytest.approx(0.5)  # deviation sqrt(1/2), over sqrt(2)
    assert len(table(runs()).splitlines()) == 2 + 5


def test_runs_that_are_there_are_not_repeated(asked, tmp_path):
    wanted, path = points(TINY, [1, 2]), tmp_path / 'runs.csv'
    found = list(scaling_curves.trained(TINY, '', wanted, [0], 3, path))
    assert [run.point for run in found] == wanted
    assert asked == [(TINY.scaled(ModelScaling(width=p.width, depth=p.depth)), p.resolution)
                     for p in wanted]
    assert found[0].top1 == 126  # after the last epoch, see instant
    again = list(scaling_curves.trained(TINY, '', wanted, [0, 1], 3, path))
    assert [(run.point, run.seed) for run in again] == [(point, 1) for point in wanted]
    assert [(run.point, run.seed) for run in read(path)] == [
        (run.point, run.seed) for run in found + again]


def test_the_base_belongs_to_every_curve(instant, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, 'left_out', lambda config: '')
    curves_cli.main(['--times', '2', '--seeds', '0', '--out', str(tmp_path)])
    directions = re.findall(r'^(\w+) [12]x, seed 0', capsys.readouterr().out, re.M)
    assert directions == ['base', *scaling_curves.DIRECTIONS]


@pytest.mark.parametrize(('config', 'epochs'), [('digits.py', 4), ('other.py', 3)])
def test_runs_of_another_length_or_config_are_not_mixed_in(config, epochs, tmp_path):
    scaling_curves.write(runs(), tmp_path / 'runs.csv')
    with pytest.raises(InputError, match=r"holds runs of 3 epochs of 'digits.py': give the same"):
        list(scaling_curves.trained(TINY, config, points(TINY, [1]), [0], epochs,
                                    tmp_path / 'runs.csv'))


def test_a_torn_table_of_runs_is_named(tmp_path):
    scaling_curves.write(runs(), tmp_path / 'runs.csv')
    text = (tmp_path / 'runs.csv').read_text()
    (tmp_path / 'runs.csv').write_text(text[:len(text) - 30])
    with pytest.raises(InputError, match='is no whole table of runs'):
        read(tmp_path / 'runs.csv')


def test_a_study_that_is_trained_otherwise_is_refused(instant, tmp_path):
    search.search(search.open_study(tmp_path, SOME[:1], [0], epochs=3), TINY, '', 3, tmp_path)
    search.open_study(tmp_path, SOME[:1], [0], epochs=3)
    with pytest.raises(InputError, match=r"trained with \{'epochs': 3\}, and now it is"):
        search.open_study(tmp_path, SOME[:1], [0], epochs=4)


def test_a_study_of_which_nothing_was_trained_takes_other_questions(instant, tmp_path, monkeypatch):
    def broken(*args):
        raise InputError('no such config')

    with monkeypatch.context() as patch:
        patch.setattr(trials, 'trial_config', broken)
        study = search.open_study(tmp_path, SOME, [0], config='typo.py')
        with pytest.raises(InputError):
            search.search(study, TINY, 'typo.py', 3, tmp_path)
    study = search.open_study(tmp_path, SOME[:2], [1], config='right.py')
    search.search(study, TINY, '', 3, tmp_path)
    assert sum(len(r.values) + r.pruned for r in search.results(study)) == len(instant) == 2
    with pytest.raises(InputError, match='asks for 2 candidates'):
        search.open_study(tmp_path, SOME, [0], config='right.py')


def test_a_seed_that_is_named_twice_is_trained_once(instant, tmp_path, monkeypatch, capsys):
    found = list(scaling_curves.trained(TINY, '', points(TINY, [1]), [0, 0], 3,
                                        tmp_path / 'runs.csv'))
    assert [run.seed for run in found] == [0]
    monkeypatch.setattr(trials, 'left_out', lambda config: '')
    search_cli.main(['--study', str(tmp_path), '--step', '1', '--seeds', '0', '0'])
    assert len(instant) == 2  # one of the curves, and 2 1 1, the only candidate
    assert '| 2 | 1 | 1 |' in capsys.readouterr().out


def test_a_file_that_is_no_study_is_named(tmp_path):
    (tmp_path / 'study.db').write_text('no database ' * 100)
    with pytest.raises(InputError, match='cannot be read as a study'):
        search.open_study(tmp_path, SOME, [0])


def test_the_picture_names_its_axes(tmp_path):
    draw(runs(), 'two seeds', tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_a_run_trains_for_real(tmp_path):
    cfg = trials.trial_config('quickstart/efficientnet-b0_digits.py', TINY.arch, 32, 2, 0)
    cfg.train_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = 64
    told = []
    found = trials.train(cfg, tmp_path / 'run', lambda *args: told.append(args))
    assert [epoch for epoch, _ in told] == [1, 2]
    assert [value for _, value in told] == found
    assert not (tmp_path / 'run').exists()


def test_a_trial_has_its_network_and_size_alone(tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::quickstart/efficientnet-b0_digits.py'\n"
        'model = dict(backbone=dict(scaling=dict(width=2)))\n'
        "test_pipeline = [dict(type='ResizeEdge', scale=80), dict(type='CenterCrop', crop_size=64)]"
        '\nval_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n')
    cfg = trials.trial_config(str(tmp_path / 'base.py'), TINY.arch, 32, 2, 5)
    assert cfg.model.backbone.scaling is None
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[-1].end, cfg.randomness.seed) == (2, 2, 5)
    sizes = [[row.get('scale') or row.get('crop_size') for row in cfg[loader].dataset.pipeline]
             for loader in ('train_dataloader', 'val_dataloader')]
    assert sizes == [[(32, 32), 32, None], [40, 32]]  # half of (64, 64), 64; 80, 64


def test_a_config_of_the_users_is_taken_and_not_the_shipped_one_of_its_name(tmp_path, monkeypatch):
    name = 'quickstart/efficientnet-b0_digits.py'
    mine = tmp_path / 'configs' / name
    mine.parent.mkdir(parents=True)
    mine.write_text(f"_base_ = 'mmeffnet::{name}'\n"
                    'optim_wrapper = dict(optimizer=dict(lr=0.000123))\n')
    (tmp_path / 'exp').mkdir()
    monkeypatch.chdir(tmp_path / 'exp')
    cfg = trials.trial_config(f'../configs/{name}', TINY.arch, 32, 2, 0)
    assert cfg.optim_wrapper.optimizer.lr == 0.000123


def test_what_goes_with_weights_is_left_out_of_trials(tmp_path, capsys):
    base = tmp_path / 'base.py'
    assert trials.left_out('quickstart/efficientnet-b0_digits.py') == ''
    base.write_text(
        "_base_ = 'mmeffnet::quickstart/efficientnet-b0_digits.py'\nload_from = 'w.pth'\n"
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='w.pth'),\n"
        '                           frozen_stages=5, norm_eval=True))\n')
    cfg = trials.trial_config(str(base), TINY.arch, 32, 2, 0)
    assert cfg.load_from is cfg.model.backbone.init_cfg is None
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (0, False)
    # Each command says so once.
    said = (f'not taken from {base}: load_from, model.backbone.init_cfg, '
            'model.backbone.frozen_stages, model.backbone.norm_eval; trials begin with random')
    with pytest.raises(SystemExit):  # the budget leaves no run to draw
        curves_cli.main(['--config', str(base), '--out', str(tmp_path), '--budget', '0'])
    told = capsys.readouterr()
    assert told.out.count(said) == 1
    assert 'runs.csv: no runs to draw: no training was begun within --budget 0' in told.err
    search_cli.main(['--config', str(base), '--study', str(tmp_path), '--budget', '0'])
    assert capsys.readouterr().out.count(said) == 1


def test_the_documented_numbers_are_those_of_the_committed_runs(tmp_path, capsys):
    folder = Path(__file__).parents[2] / 'docs'
    curves_cli.main(['--draw', str(folder / 'scaling-curves.csv'), '--out', str(tmp_path)])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    document = (folder / 'scaling.md').read_text()
    assert len(printed) > 10
    assert '\n'.join(printed) in document
    assert (folder / re.search(r'\((scaling-curves\.png)\)', document)[1]).is_file()


@pytest.mark.parametrize(('main', 'argv', 'message'), [
    (curves_cli.main, ['--epochs', '0'], '--epochs 0 must be at least 1'),
    (curves_cli.main, ['--times', '2', '0'], '--times [2.0, 0.0] must be from 1 to 1000'),
    (curves_cli.main, ['--draw', 'none.csv'], "--draw 'none.csv' does not exist"),
    (search_cli.main, ['--step', '3'], '--step 3.0 must be above 0 and at most 1'),
    (search_cli.main, ['--workers', '0'], '--workers 0 must be at least 1'),
    (curves_cli.main, ['--out', 'none', '--budget', '-1'], '--budget -1.0 must be at least 0'),
    (search_cli.main, ['--study', 'none', '--budget', 'nan'], '--budget nan must be at least 0'),
    (search_cli.main, ['--study', 'file'], "--study 'file' cannot be a folder ("),
    (search_cli.main, ['--study', 'none', '--config', 'typo.py'],
     "config 'typo.py' does not exist"),
    (search_cli.main, ['--study', 'none', '--base-width', '0'],
     '--base-width 0.0 and --base-depth 0.5: width=0.0 must be a number above 0'),
    (search_cli.main, ['--study', 'none', '--epochs', '1'],
     "config 'quickstart/efficientnet-b0_digits.py': its CosineAnnealingLR begins after 1 epochs: "
     '--epochs 1 must be above that'),
    (search_cli.main, ['--study', 'none', '--config', 'iters.py'],
     "config 'iters.py': trials need a list of param_scheduler and train_cfg.max_epochs"),
    (curves_cli.main, ['--config', 'iters.py'],
     "config 'iters.py': trials need a list of param_scheduler and train_cfg.max_epochs"),
    (curves_cli.main, ['--times', '64', '--budget', '0'],
     '--times 64: depth reaches 34.5 times the cost of'),
    (curves_cli.main, ['--out', 'file', '--draw', 'file'], '--out file: nothing can be written')])
def test_wrong_arguments_are_said_in_one_line(main, argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    Path('iters.py').write_text(
        "_base_ = 'mmeffnet::quickstart/efficientnet-b0_digits.py'\n"
        'train_cfg = dict(_delete_=True, by_epoch=False, max_iters=100, val_interval=50)\n')
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert f'error: {message}' in capsys.readouterr().err
    assert not Path('none').exists()  # no study keeps the slip
