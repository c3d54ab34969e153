"""Several runs in one picture and one table, resumed ones as if nothing had happened."""
import json

import pytest
from PIL import Image

from mmeffnet.engine import comparison
from mmeffnet.engine.comparison import best, main, read_run


def line(iteration, epoch=None, loss=1., lr=0.1, time=0.5):
    return dict(loss=loss, lr=lr, time=time, data_time=0., iter=iteration, step=iteration,
                memory=100, **({} if epoch is None else dict(epoch=epoch)))


def score(step, top1):
    return {'accuracy/top1': top1, 'data_time': 0., 'time': 0.1, 'step': step}


def write(folder, name, *parts):
    """A work dir with a folder for each start of the run."""
    for number, lines in enumerate(parts):
        path = folder / name / f'20261126_00000{number}' / 'vis_data'
        path.mkdir(parents=True)
        (path / 'scalars.json').write_text(''.join(json.dumps(entry) + '\n' for entry in lines))
    return folder / name


@pytest.fixture
def resumed(tmp_path):
    """Epochs of 20 iterations: killed in the third, resumed from the end of the first."""
    return write(
        tmp_path, 'resumed',
        [line(10, 1, 4.), line(20, 1, 3.), score(1, 50.), line(30, 2, 9.), line(40, 2, 9.),
         score(2, 10.), line(50, 3, 9.)],
        [line(25, 2, 2.), line(40, 2, 1.), score(2, 70.), line(60, 3, 0.5), score(3, 60.)])


def test_what_a_resumed_run_has_done_again_counts_once(resumed):
    run = read_run(resumed)
    assert run.name == 'resumed'
    assert run.epoch_length == 20
    steps, values = run.curve('loss')
    assert list(steps) == [0.5, 1., 1.25, 2., 3.]
    assert list(values) == [4., 3., 2., 1., 0.5]
    assert [list(part) for part in run.curve('accuracy/top1')] == [[1, 2, 3], [50., 70., 60.]]
    assert run.seconds == 60 * 0.5
    assert best(run, 'accuracy/top1') == (70., 2)
    assert best(run, 'loss') == (0.5, 3.)


def test_runs_by_iteration_have_no_epochs(tmp_path):
    run = read_run(write(tmp_path, 'iterations', [line(10), score(10, 5.), line(20)],
                         [line(20, loss=0.3), score(20, 6.)]))
    assert run.epoch_length is None
    assert list(run.curve('loss')[0]) == [10, 20]
    assert list(run.curve('accuracy/top1')[0]) == [10, 20]


def test_the_table_says_how_far_each_run_came_and_the_picture_is_written(resumed, tmp_path, capsys):
    other = write(tmp_path, 'other', [line(20, 1, 3.), score(1, 40.)])
    main([str(resumed), str(other), '--out', str(tmp_path / 'a/b.png'), '--names', 'one', 'two'])
    out = capsys.readouterr().out.splitlines()
    assert out == [
        '| run | epochs | time | loss: last, best (at) | accuracy/top1: last, best (at) |',
        '|---|---|---|---|---|',
        '| one | 3 | 0:00 h | 0.5, 0.5 (3) | 60, 70 (2) |',
        '| two | 1 | 0:00 h | 3, 3 (1) | 40, 40 (1) |',
        f'Picture: {tmp_path}/a/b.png']
    with Image.open(tmp_path / 'a/b.png') as picture:
        assert picture.width > picture.height > 300


def test_each_run_is_told_apart_and_named(resumed, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparison, 'save_figure', lambda figure, path: drawn.append(figure))
    runs = [read_run(resumed, f'run {i}') for i in range(20)]
    comparison.draw(runs, ['loss', 'accuracy/top1', 'lr'], tmp_path / 'x.png')
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        'Training loss', 'accuracy/top1 (%)', 'Learning rate']
    assert len({(curve.get_color(), curve.get_linestyle()) for curve in panels[0].lines}) == 20
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [r.name for r in runs]


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
        f"error: {path}, line 1: '{{\"loss\": 0.' is not JSON: remove the line\n")


@pytest.mark.parametrize(('args', 'message'), [
    (['nowhere'], "run 'nowhere' has no */vis_data/scalars.json: give the work dir of a training"),
    (['tested'], "run 'tested' was never trained: its scalars.json holds no loss"),
    (['good', '--keys', 'mAP'],
     "--keys 'mAP' is in none of the runs: they have accuracy/top1, loss, lr"),
    (['good', '--names', 'a', 'b'], '--names has 2 names for 1 runs: give one for each'),
])
def test_wrong_arguments_are_one_line_and_draw_nothing(args, message, tmp_path, monkeypatch,
                                                       capsys):
    write(tmp_path, 'good', [line(10, 1), score(1, 50.)])
    write(tmp_path, 'tested', [score(1, 50.)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f'error: {message}\n'
    assert not (tmp_path / 'work_dirs').exists()
