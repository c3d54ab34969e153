"""Names that the best checkpoint is chosen by, and that no validation gives."""
from decimal import Decimal

import numpy as np
import pytest
import torch
from line_runs import Score, start
from mmengine.registry import METRICS

from mmeffnet.engine.cli import train_parser
from mmeffnet.engine.saving import CheckpointHook
from mmeffnet.engine.scores import check_given, check_wanted
from mmeffnet.errors import InputError, RunError
from mmeffnet.evaluation import Accuracy


def accuracy(classes=10, **settings):
    metric = METRICS.build(dict(type='mmeffnet.Accuracy', **settings))
    metric.dataset_meta = dict(classes=[*map(str, range(classes))]) if classes else None
    return metric


@pytest.mark.parametrize(('metric', 'given'), [
    (accuracy(topk=(1, 15)), ['top1']), (accuracy(topk=15), ['top10']),
    (accuracy(3, topk=(1, 5), thrs=(0.5, None)), ['top1_thr-0.50', 'top1_no-thr'])])
def test_what_accuracy_gives_is_known_before(metric, given):
    given = [f'accuracy/{name}' for name in given]
    check_wanted(given, [metric])
    with pytest.raises(InputError, match=(
            "^checkpoint.save_best='accuracy/top4': val_evaluator with its topk gives "
            f'{", ".join(given)} for {len(metric.dataset_meta["classes"])} classes')):
        check_wanted(['accuracy/top4'], [metric])


def test_another_metric_may_give_anything():
    other = METRICS.build(dict(type='mmpretrain.Accuracy'))
    check_wanted(['auto', 'f1', 'accuracy/top4'], [accuracy(topk=(1, 2)), other, Score()])
    check_wanted(['accuracy/top4', 'auto'], [accuracy(topk=(1, 2)), accuracy(topk=4)])

    class More(Accuracy):
        """Gives the mean over classes, too."""
    more = More()
    more.dataset_meta = accuracy().dataset_meta
    check_wanted(['accuracy/mean_class'], [more])
    # Of the loop, by a prefix of its own, and without classes to count.
    check_wanted(['val_loss', 'teacher/accuracy/top1'], [accuracy()])
    check_wanted(['accuracy/top3'], [accuracy(None, topk=5)])
    arrays = accuracy()
    arrays.dataset_meta = dict(classes=np.array(['a', 'b']))
    with pytest.raises(InputError, match='for 2 classes'):
        check_wanted(['accuracy/top3'], [arrays])


def test_a_training_is_refused_before_its_first_step(fails, tiny_config, tmp_path):
    path = tiny_config("default_hooks = dict(checkpoint=dict(save_best='accuracy/top3'))")
    assert fails(train_parser, path, '--work-dir', 'out') == (
        "error: checkpoint.save_best='accuracy/top3': val_evaluator with its topk gives "
        'accuracy/top1, accuracy/top5 for 10 classes; name one of these, or change topk')
    assert not list(tmp_path.glob('out/*.pth'))


def test_a_run_without_the_score_ends_in_words_and_can_go_on(tmp_path):
    with pytest.raises(RunError, match=(
            "^checkpoint.save_best='top1': the validation gives score, again; name one of these, "
            'or auto for the first, and go on')):
        start(tmp_path, hook=dict(save_best=['score', 'top1'], rule='greater'))
    start(tmp_path, load_from=str(tmp_path / 'epoch_1.pth'))
    assert (tmp_path / 'best_score_epoch_2.pth').exists()


@pytest.mark.parametrize('number', [
    1, .5, True, np.bool_(True), Decimal('.5'), np.float32(.5), np.ones(()), torch.ones(1), None],
    ids=repr)
def test_scores_that_can_be_compared_are_taken(number):
    check_given(['auto', 'one'], dict(one=number, two=[1., 2.]))
    for other in ([1., 2.], 'text', dict(a=1.), torch.ones(2)):
        with pytest.raises(RunError, match="'two' is no single number"):
            check_given(['two'], dict(one=number, two=other))


@pytest.mark.parametrize(('scores', 'key', 'text'), [
    (dict(classwise=[1., 2.], mean=1.5), 'auto',
     "'classwise' is no single number, and the validation gives mean; name one of these, and"),
    (dict(mean=1.5, classwise=np.ones(2)), 'classwise', "'classwise' is no single number, and the "
     'validation gives mean; name one of these, or auto for the first, and'),
    (dict(result=torch.ones(2, 2)), 'auto', "'result' is no single number, and the validation "
     'gives no single number; set default_hooks.checkpoint.save_best=None, and'),
    ({}, 'auto', 'the validation gives no single number; set default_hooks.checkpoint.save_best')])
def test_a_score_of_several_numbers_ends_in_words(scores, key, text):
    with pytest.raises(RunError) as error:
        check_given([key], scores)
    assert str(error.value).startswith(f'checkpoint.save_best={key!r}: {text}')


class Classwise(Score):
    def compute_metrics(self, results):
        return dict(classwise=[1., 2.], **super().compute_metrics(results))


def test_the_way_on_from_a_score_of_several_numbers_is_one(tmp_path):
    with pytest.raises(RunError, match="'classwise' is no single number.*go on with --resume$"):
        start(tmp_path, val_evaluator=[Classwise()], hook=dict(save_best='auto', rule=None))
    start(tmp_path, load_from=str(tmp_path / 'epoch_1.pth'), val_evaluator=[Classwise()],
          hook=dict(save_best=None))
    assert (tmp_path / 'epoch_2.pth').exists()
    assert not list(tmp_path.glob('best_*'))


def test_a_name_that_tells_no_direction_asks_for_the_rule():
    text = ("^checkpoint.save_best: whether more or less of 'm/f1-score' is better cannot be told "
            "from the name; set default_hooks.checkpoint.rule='greater' or 'less'$")
    with pytest.raises(InputError, match=text):
        CheckpointHook(save_best='m/f1-score')
    assert CheckpointHook(save_best='m/f1-score', rule='less').rules == ['less']
    hook = CheckpointHook(save_best='auto')
    with pytest.raises(InputError, match=text):
        hook._init_rule(hook.rules, ['m/f1-score'])
