"""Several runs in one picture and one table, resumed ones as if nothing had happened."""
import json
from itertools import zip_longest

import pytest
from conftest import run_tool
from PIL import Image

from mmeffnet.engine import comparison
from mmeffnet.engine.comparison import curve, main
from mmeffnet.engine.history import read_run
from mmeffnet.engine.plots import best


def line(iteration, epoch=None, loss=1., lr=0.1, time=0.5):
    return dict(loss=loss, lr=lr, time=time, data_time=0., iter=iteration, step=iteration,
                memory=100, **({} if epoch is None else dict(epoch=epoch)))


def score(step, top1):
    return {'accuracy/top1': top1, 'data_time': 0., 'time': 0.1, 'step': step}


def write(folder, name, *parts, epoch_length=20, resumed=()):
    """A work dir with a folder for each start of the run.

    resumed: the iterations that were behind at each start after the first, None of a new training.
    """
    for number, (lines, behind) in enumerate(zip_longest(parts, [None, *resumed])):
        path = folder / name / f'20261126_00000{number}' / 'vis_data'
        path.mkdir(parents=True)
        (path / 'scalars.json').write_text(''.join(json.dumps(entry) + '\n' for entry in lines))
        if epoch_length:
            (path.parent / f'20261126_00000{number}.log').write_text(
                ('' if behind is None else f'INFO - resumed epoch: 1, iter: {behind}\n')
                + f'config\nINFO - Epoch(train)  [1][ 5/{epoch_length}]  lr: 1.0\n')
    return folder / name


@pytest.fixture
def resumed(tmp_path):
    """Epochs of 20 iterations: killed in the third, resumed from the end of the first.

    The last iteration of an epoch is not always logged.
    """
    return write(
        tmp_path, 'resumed',
        [line(10, 1, 4.), line(18, 1, 3.), score(1, 50.), line(30, 2, 9.), line(40, 2, 9.),
         score(2, 10.), line(50, 3, 9.)],
        [line(25, 2, 2.), line(38, 2, 1.), score(2, 70.), line(58, 3, 0.5), score(3, 60.)],
        resumed=[20])


def test_validations_may_be_counted_in_iterations(tmp_path):
    """As by log_metric_by_epoch=False; the last iterations of an epoch are not always logged."""
    folder = write(tmp_path, 'run', [line(10, 1), line(18, 1), score(20, 50.), line(38, 2),
                                     score(40, 60.)], [line(58, 3), score(60, 70.)], resumed=[40])
    assert read_run(folder).curves['accuracy/top1'] == {20: 50., 40: 60., 60: 70.}


def test_a_real_run_is_read_as_it_went(shown_run):
    folder, _ = shown_run
    run = read_run(folder)
    assert run.epoch_length == 8
    assert run.validated == ['accuracy/top1', 'accuracy/top5']
    scalars, = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(text) for text in scalars.read_text().splitlines()]
    for key, epochs in (('loss', [0.5, 1., 1.5, 2.]), ('lr', [0.5, 1., 1.5, 2.]),
                        ('accuracy/top1', [1., 2.])):
        steps, values = curve(run, key, 'epoch')
        assert list(steps) == epochs
        assert list(values) == [entry[key] for entry in lines if key in entry]
    assert run.seconds == pytest.approx(4 * sum(e['time'] for e in lines if 'iter' in e))
    part, = folder.glob('*/vis_data')
    assert read_run(part.parent).curves == run.curves  # one start alone


def test_what_a_resumed_run_has_done_again_counts_once(resumed):
    run = read_run(resumed)
    assert run.name == 'resumed'
    steps, values = curve(run, 'loss', 'epoch')
    assert list(steps) == [0.5, 0.9, 1.25, 1.9, 2.9]
    assert list(values) == [4., 3., 2., 1., 0.5]
    assert [list(part) for part in curve(run, 'accuracy/top1', 'epoch')] == [
        [1, 2, 3], [50., 70., 60.]]
    assert run.seconds == 58 * 0.5
    assert best(*curve(run, 'accuracy/top1', 'epoch'), 'accuracy/top1') == (70., 2)
    assert best(*curve(run, 'loss', 'epoch'), 'loss') == (0.5, 2.9)


def test_a_training_that_began_anew_takes_the_place_of_the_old_one(tmp_path):
    old = [line(10, 1, 4.), {**score(1, 9.), 'mAP': 5.}]
    run = read_run(write(tmp_path, 'anew', old, [line(10, 1, 2.)]))
    assert run.curves == dict(loss={10: 2.}, lr={10: 0.1})
    assert run.validated == []


def test_without_epochs_validation_stands_at_the_iteration_it_was_made_at(tmp_path):
    # MMEngine counts it in epochs of which there are none, unless told otherwise.
    run = read_run(write(tmp_path, 'iterations', [line(10), score(0, 5.), line(20)],
                         [line(20, loss=0.3), score(0, 6.)], epoch_length=None))
    assert run.epoch_length is None
    assert list(run.curve('loss')[0]) == [10, 20]
    assert run.curves['accuracy/top1'] == {10: 5., 20: 6.}


def test_epochs_in_the_log_of_a_loop_by_iterations_move_no_validation(tmp_path):
    """MMEngine counts its validations in epochs, of which none ends, unless told otherwise."""
    lines = [[line(5), score(step[0], 5.), line(10), score(step[1], 8.), line(15),
              score(step[2], 6.)] for step in ((0, 0, 0), (5, 10, 15))]
    for name, part in zip(('epochs', 'iterations'), lines, strict=True):
        run = read_run(write(tmp_path, name, part, epoch_length=6))
        assert run.curves['accuracy/top1'] == {5: 5., 10: 8., 15: 6.}
        assert best(*run.curve('accuracy/top1'), 'accuracy/top1') == (8., 10.)
    # Counted so, the first one could be taken for the end of the first epoch.
    early = write(tmp_path, 'early', [line(1), score(1, 5.), line(2), score(2, 8.)], epoch_length=6)
    assert read_run(early).curves['accuracy/top1'] == {1: 5., 2: 8.}


def test_nothing_is_left_of_a_training_that_began_anew_before_its_first_line(tmp_path):
    old = [line(n, loss=n) for n in range(1, 21)]
    new = [line(10, loss=0.5), line(20, loss=0.25)]
    run = read_run(write(tmp_path, 'anew', old, new))
    assert run.curves['loss'] == {10: 0.5, 20: 0.25}
    assert run.seconds == 20 * 0.5


def test_what_is_done_again_before_the_first_line_counts_once(tmp_path):
    old, new = [line(n, loss=n) for n in range(1, 9)], [line(10, loss=0.5)]
    kept = {1: 1, 2: 2, 3: 3, 4: 4}
    run = read_run(write(tmp_path, 'run', old, new, resumed=[4]))
    assert run.curves['loss'] == {**kept, 10: 0.5}
    # The line tells less than the log does.
    run = read_run(write(tmp_path, 'without log', old, new, epoch_length=None))
    assert run.curves['loss'] == {**{n: n for n in range(1, 9)}, 10: 0.5}


def test_numbers_that_are_not_finite_are_never_the_best():
    nan, inf = float('nan'), float('inf')
    steps, values = (comparison.np.array(part) for part in ([1., 2., 3.], [nan, 3., inf]))
    assert best(steps, values, 'accuracy/top1') == (3., 2.)
    assert best(steps[:1], values[:1], 'loss') == pytest.approx((nan, nan), nan_ok=True)


def test_the_tool_prints_how_far_each_run_came_and_writes_the_picture(resumed, tmp_path):
    write(tmp_path, 'other', [line(20, 1, 3., time=200.), score(1, 40.)])
    result = run_tool('compare_runs.py', 'resumed', 'other', '--out', 'a/b.png', '--names', 'one',
                      'two', cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout.splitlines() == [
        '| run | epochs | time of steps (estimated) | loss: last, best (epoch) '
        '| accuracy/top1: last, best (epoch) |',
        '| --- | ---    | ---                       | ---                      '
        '| ---                               |',
        '| one | 3      | 0:00:29                   | 0.5, 0.5 (2.9)           '
        '| 60, 70 (2)                        |',
        '| two | 1      | 1:06:40                   | 3, 3 (1)                 '
        '| 40, 40 (1)                        |',
        'Picture: a/b.png']
    with Image.open(tmp_path / 'a/b.png') as picture:
        assert picture.width > picture.height > 300
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['b.png']


@pytest.fixture
def drawn(monkeypatch):
    """Collects the figures instead of writing them."""
    figures = []
    monkeypatch.setattr(comparison, 'save_figure', lambda figure, path: figures.append(figure))
    return figures


def test_each_run_is_told_apart_and_named(resumed, drawn):
    runs = [read_run(resumed, f'run {i}') for i in range(comparison.MOST_RUNS)]
    comparison.draw(runs, ['loss', 'accuracy/top1', 'lr'], None)
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        'Training loss', 'accuracy/top1 (%)', 'Learning rate']
    assert [axes.get_xlabel() for axes in panels] == ['epoch'] * 3
    assert len({(curve.get_color(), curve.get_linestyle()) for curve in panels[0].lines}) == 21
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [r.name for r in runs]


def test_names_of_runs_are_shown_as_they_are(resumed, drawn):
    """matplotlib leaves out what begins with _, and takes what is between two $ for a formula."""
    names = ['_warmup', 'lr$1_$2', '_US$ / CA$', 'plain', '_child0']
    comparison.draw([read_run(resumed, name) for name in names], ['loss', 'accuracy/top1'], None)
    drawn[0].draw_without_rendering()
    legend, = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert [line.get_color() for line in legend.get_lines()] == [
        line.get_color() for line in drawn[0].axes[0].lines]


def test_one_run_without_epochs_puts_all_over_iterations(resumed, tmp_path, drawn):
    other = write(tmp_path, 'other', [line(500), score(0, 5.)], epoch_length=None)
    comparison.draw([read_run(resumed), read_run(other)], ['loss', 'accuracy/top1'], None)
    assert [axes.get_xlabel() for axes in drawn[0].axes] == ['iteration'] * 2
    assert [list(curve.get_xdata()) for curve in drawn[0].axes[1].lines] == [[20, 40, 60], [500]]


def test_a_run_that_diverges_does_not_press_the_others_flat(tmp_path, drawn):
    nan = float('nan')
    runs = [read_run(write(tmp_path, name, [line(10, 1, 2.), line(20, 1, loss), line(30, 2, nan)]))
            for name, loss in (('good', 1.), ('bad', 1e6))]
    comparison.draw(runs, ['loss'], None)
    comparison.draw(runs[:1], ['loss'], None)
    assert [figure.axes[0].get_yscale() for figure in drawn] == ['log', 'linear']


def test_runs_of_one_name_are_called_by_their_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 'a/out', [line(10, 1)])
    write(tmp_path, 'b/out', [line(10, 1)])
    main(['a/out', 'b/out'])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows[2:4]] == ['a/out', 'b/out']
    assert rows[-1] == 'Picture: work_dirs/compare_runs.png'


def test_a_line_that_was_being_written_is_left_out_and_a_broken_one_named(tmp_path, capsys):
    folder = write(tmp_path, 'run', [line(10, 1)])
    path, = folder.glob('*/vis_data/scalars.json')
    path.write_text(path.read_text() + '{"loss": 0.')
    assert list(read_run(folder).curve('loss')[1]) == [1.]
    path.write_text('{"loss": 0.\n' + json.dumps(line(10, 1)))
    with pytest.raises(SystemExit) as exit_:
        main([str(folder)])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {path}, line 1: '{{\"loss\": 0.' is not a JSON object: remove the line\n")


@pytest.mark.parametrize(('args', 'message'), [
    (['nowhere'], "run 'nowhere' has no */vis_data/scalars.json: give the work dir of a training"),
    (['tested'], "run 'tested' was never trained: its scalars.json has no iterations"),
    (['good', '--keys', 'mAP'],
     "--keys 'mAP' is in none of the runs: they have accuracy/top1, loss, lr"),
    (['good', '--names', 'a', 'b'], '--names has 2 names for 1 runs: give one for each'),
    (['good', 'good', '--names', 'a', 'a'], '--names has one name twice: give each run its own'),
    (['good'] * 22, '22 runs in one picture: only 21 can be told apart'),
    (['good', '--out', 'x.jpg'], "--out 'x.jpg': the picture is written as .png"),
    (['good', '--out', 'dir.png'], "--out 'dir.png' cannot be written: Is a directory"),
])
def test_wrong_arguments_are_one_line_and_draw_nothing(args, message, tmp_path, monkeypatch,
                                                       capsys):
    write(tmp_path, 'good', [line(10, 1), score(1, 50.)])
    write(tmp_path, 'tested', [score(1, 50.)])
    (tmp_path / 'dir.png').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f'error: {message}\n'
    assert not (tmp_path / 'work_dirs').exists()
