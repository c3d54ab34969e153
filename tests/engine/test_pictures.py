"""The pictures of a run, by what is drawn into them."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from line_runs import LOOPS, start
from matplotlib.figure import Figure

from mmeffnet.engine import pictures, plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Figures as they are saved."""
    figures, save = [], plots.save_figure
    monkeypatch.setattr(plots, 'save_figure', lambda figure, path: figures.append(figure) or save(
        figure, path))
    return figures


def test_the_learning_curve_shows_loss_accuracy_and_rate_over_epochs(drawn, tmp_path):
    scalars = {'train/loss': (np.linspace(2, 1, 40), None),
               'train/lr': (np.full(40, 0.1), None),
               'val/accuracy/top1': (np.array([50., 80., 70., 60.]), None),
               'val/time': (np.ones(4), None)}
    assert plots.learning_curve(scalars, 10, tmp_path / 'curve.png')
    figure: Figure = drawn[0]
    loss, accuracy, rate = figure.axes
    assert [a.get_title() for a in figure.axes] == [
        'Training loss', 'Validation, best 80.00 in epoch 2', 'Learning rate']
    assert {a.get_xlabel() for a in figure.axes} == {'epoch'}
    assert accuracy.get_ylabel() == 'accuracy/top1 (%)'
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 50], [2, 80], [3, 70], [4, 60]]
    assert loss.lines[0].get_xdata()[-1] == 4.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['curve.png']


def test_a_history_that_has_lost_its_first_steps_ends_where_the_run_is(drawn, tmp_path):
    """MMEngine keeps the last million."""
    plots.learning_curve({'train/loss': (np.ones(40), None)}, 10, tmp_path / 'curve.png', done=90)
    x = drawn[0].axes[0].lines[0].get_xdata()
    assert (x[0], x[-1]) == (5.1, 9)


def test_a_loss_that_is_not_finite_is_a_gap_and_not_the_end_of_the_curve(drawn, tmp_path):
    losses = np.ones(40)
    losses[[9, 12]] = np.nan, np.inf  # steps that max_skips let the run go on after
    plots.learning_curve({'train/loss': (losses, None)}, 10, tmp_path / 'curve.png')
    for line in drawn[0].axes[0].lines:
        assert line.get_xydata().shape == (38, 2)
        assert (line.get_ydata() == 1).all()
        assert line.get_xdata()[-1] == 4


def test_validations_are_drawn_at_the_epochs_they_were_made(drawn, tmp_path):
    scalars = {'train/loss': (np.ones(60), None), 'val/accuracy/top1': (np.array([80., 50.]), None),
               plots.VALIDATED: (np.array([5., 6.]), None)}
    plots.learning_curve(scalars, 10, tmp_path / 'curve.png')
    assert drawn[0].axes[1].get_title() == 'Validation, best 80.00 in epoch 5'
    assert drawn[0].axes[1].lines[0].get_xdata().tolist() == [5, 6]


@pytest.mark.parametrize('kind', LOOPS)
def test_every_checkpoint_knows_the_epochs_of_its_validations(kind, tmp_path, monkeypatch):
    """It is written once more after its validation, and before anything is drawn."""
    for method in ('_draw_curve', '_collect'):  # a line has neither labels nor a need of pictures
        monkeypatch.setattr(pictures.PicturesHook, method, lambda *_: None)
    start(tmp_path, kind, pictures.PicturesHook())
    for epoch in range(1, 5):
        name = f'epoch_{epoch}.pth' if kind == 'epochs' else f'iter_{4 * epoch}.pth'
        hub = torch.load(tmp_path / name, weights_only=True)['message_hub']
        epochs, scores = (hub['log_scalars'][name]['history'].tolist()
                          for name in (plots.VALIDATED, 'val/score'))
        assert epochs == [*range(1, epoch + 1)]
        assert len(scores) == epoch


def test_nothing_to_draw_draws_nothing(drawn, tmp_path):
    assert plots.learning_curve({}, 10, tmp_path / 'curve.png') is False
    assert list(tmp_path.iterdir()) == []


def test_the_confusion_matrix_counts_rows_of_true_classes(drawn, tmp_path):
    pairs = [(0, 0), (0, 0), (0, 1), (1, 1)]
    plots.confusion_matrix(pairs, ('cat', 'dog'), tmp_path / 'confusion.png')
    axes = drawn[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[200 / 3, 100 / 3], [0, 100]])
    assert axes.get_title() == '3 of 4 right (75.00 %)'
    assert {t.get_text() for t in axes.texts} == {'2', '1'}
    assert axes.get_ylabel() == 'true class'


@pytest.mark.parametrize(('classes', 'shown'), [
    (('tench, Tinca tinca', 'crane, bird'), ['tench', 'crane']),
    (('shirt, red', 'shirt, blue'), ['shirt, red', 'shirt, blue']),
    (('1,5 mm', '1,8 mm'), ['1,5 mm', '1,8 mm'])])
def test_classes_are_called_by_their_first_synonym_where_it_tells_them_apart(
        classes, shown, drawn, tmp_path):
    plots.confusion_matrix([(0, 0), (1, 1)], classes, tmp_path / 'confusion.png')
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == shown


def test_names_with_dollars_are_drawn_as_they_are(drawn, tmp_path):
    """matplotlib takes what is between two of them for a formula, which may be none."""
    classes = ['$5_$10', 'US$ / CA$', r'a\$b']
    plots.confusion_matrix([(0, 0), (1, 1)], classes, tmp_path / 'confusion.png')
    plots.learning_curve({'train/loss': (np.ones(20), None),
                          'val/$5_$10_precision': (np.ones(2), None)}, 10, tmp_path / 'curve.png')
    matrix, curve = drawn[0].axes[0], drawn[1].axes[1]
    labels = [*matrix.get_xticklabels(), *matrix.get_yticklabels(), curve.yaxis.label]
    assert [label.get_text() for label in labels] == [*classes, *classes, '$5_$10_precision']
    assert not any(label.get_parse_math() for label in labels)


@pytest.mark.parametrize(('name', 'title'), [
    ('loss', 'Validation, best 0.20 in epoch 2'), ('mIoU', 'Validation, best 0.50 in epoch 3')])
def test_of_losses_the_best_is_the_lowest_and_of_finite_numbers_alone(name, title, drawn, tmp_path):
    values = np.array([np.nan, 0.2, 0.5, np.inf])
    plots.learning_curve({'train/loss': (np.ones(40), None), f'val/{name}': (values, None)}, 10,
                         tmp_path / 'curve.png')
    assert drawn[0].axes[1].get_title() == title


def test_a_number_that_is_never_finite_is_drawn_without_a_best(drawn, tmp_path):
    scalars = {'train/loss': (np.ones(20), None), 'val/f1': (np.full(2, np.nan), None)}
    assert plots.learning_curve(scalars, 10, tmp_path / 'curve.png')
    assert [axes.get_title() for axes in drawn[0].axes] == ['Training loss', 'Validation']


def sample(true, predicted):
    from mmpretrain.structures import DataSample
    return DataSample().set_gt_label(true).set_pred_label(torch.tensor(predicted).view(-1))


def draw_epoch(samples, folder, **options):
    """Test with two classes; what the hook says."""
    lines = []
    data = type('Data', (list, ), dict(metainfo=dict(classes=('a', 'b'))))(samples)
    runner = SimpleNamespace(work_dir=str(folder), logger=SimpleNamespace(info=lines.append),
                             test_dataloader=SimpleNamespace(dataset=data))
    hook = pictures.PicturesHook(**options)
    hook.before_test_epoch(runner)
    hook.after_test_iter(runner, 0, outputs=samples)
    hook.after_test_epoch(runner)
    return lines


def test_the_hook_draws_what_was_predicted_and_says_where(drawn, tmp_path):
    lines = draw_epoch([sample(0, 0), sample(1, 0), sample(1, 1)], tmp_path)
    assert drawn[0].axes[0].get_title() == '2 of 3 right (66.67 %)'
    assert drawn[0].axes[0].images[0].get_array().tolist() == [[100, 0], [50, 50]]  # rows are true
    assert lines == [f'Picture: {tmp_path / "confusion_matrix.png"}']


def test_a_confusion_matrix_that_is_not_wanted_is_not_drawn(drawn, tmp_path):
    assert draw_epoch([sample(0, 0), sample(1, 1)], tmp_path, confusion=False) == []
    assert drawn == []


@pytest.mark.parametrize(('true', 'predicted'), [([0, 1], [1]), ([1], []), ([1], [0, 1])])
def test_samples_of_several_labels_or_none_are_not_drawn(true, predicted, drawn, tmp_path):
    assert draw_epoch([sample(0, 0), sample(true, predicted), sample(1, 1)], tmp_path) == []
    assert drawn == []


def test_too_many_classes_to_read_are_not_drawn(drawn, tmp_path):
    classes = tuple(map(str, range(plots.MOST_CLASSES + 1)))
    data = type('Data', (list, ), dict(metainfo=dict(classes=classes)))([0])
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=SimpleNamespace(info=print),
                             test_dataloader=SimpleNamespace(dataset=data))
    hook = pictures.PicturesHook()
    hook.after_test_iter(runner, 0, outputs=[sample(0, 0)])
    hook.after_test_epoch(runner)
    assert drawn == []
