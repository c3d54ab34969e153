"""Accuracy for any number of classes, judged by scikit-learn."""
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from mmpretrain.structures import DataSample
from sklearn.metrics import top_k_accuracy_score


def evaluate(scores, labels, topk):
    metric = METRICS.build(dict(type='mmeffnet.Accuracy', topk=topk))
    samples = [DataSample().set_gt_label(int(label)).set_pred_score(torch.tensor(score)).to_dict()
               for score, label in zip(scores, labels)]
    evaluator = Evaluator([metric])
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    return {classes: (rng.random((200, classes)), rng.integers(0, classes, 200))
            for classes in (3, 7)}


def test_top_k_equals_scikit_learn(scored):
    scores, labels = scored[7]
    found = evaluate(scores, labels, topk=(1, 5))
    for k in (1, 5):
        expected = 100 * top_k_accuracy_score(labels, scores, k=k)
        assert found[f'accuracy/top{k}'] == pytest.approx(expected, rel=1e-6)


def test_three_classes_have_no_top_five_and_that_is_said(scored, monkeypatch):
    said, (scores, labels) = [], scored[3]
    monkeypatch.setattr('mmeffnet.models.head.print_log', lambda line, logger: said.append(line))
    found = evaluate(scores, labels, topk=(1, 5))
    # With a single k left mmpretrain's metric drops the number from the name or keeps it.
    values = list(found.values())
    assert values == [pytest.approx(100 * top_k_accuracy_score(labels, scores, k=1), rel=1e-6)]
    assert said == ['topk=(1, 5) is cut to (1,): there are 3 classes']
