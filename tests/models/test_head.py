"""The classification head: where its numbers come from, its loss, and accuracies."""
import logging
import math

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample
from torch import nn

from mmeffnet import VARIANTS, EfficientNetHead
from mmeffnet.registry import MODELS


def features(count=4, channels=8):
    torch.manual_seed(0)
    return (torch.randn(count, channels), )


def samples(*labels):
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.fixture
def notices():
    """What is logged about topk during the test."""
    messages, handler, logger = [], logging.Handler(), MMLogger.get_current_instance()
    handler.emit = lambda record: messages.append(record.getMessage())
    handler.addFilter(lambda record: 'topk' in record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# Where its numbers come from.

@pytest.mark.parametrize('name', VARIANTS)
def test_dropout_and_width_follow_the_variant(name):
    head = EfficientNetHead(num_classes=3, arch=name)
    variant = VARIANTS[name]
    assert (head.dropout.p, head.fc.in_features) == (variant.dropout, variant.arch.head)


def test_stated_dropout_goes_before_the_variants():
    assert EfficientNetHead(num_classes=3, arch='b7', dropout=0.0).dropout.p == 0.0


def test_stated_width_goes_before_the_variants():
    assert EfficientNetHead(num_classes=3, arch='b7', in_channels=64).fc.in_features == 64


def test_head_without_variant_has_no_dropout():
    assert EfficientNetHead(num_classes=3, in_channels=8).dropout.p == 0.0


def test_head_is_built_from_a_config_by_its_prefix():
    config = dict(type='mmeffnet.EfficientNetHead', num_classes=3, arch='b3')
    assert type(MODELS.build(config)) is EfficientNetHead


def test_weights_start_uniform_within_the_root_of_the_classes():
    head = EfficientNetHead(num_classes=100, in_channels=512)
    head.init_weights()
    limit, weight = 1 / math.sqrt(100), head.fc.weight
    assert 0.99 * limit < weight.abs().max() <= limit
    # A uniform distribution's standard deviation is limit / sqrt(3).
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)


def test_stated_initial_weights_replace_the_rule():
    head = EfficientNetHead(num_classes=3, in_channels=8, init_cfg=dict(
        type='Constant', layer='Linear', val=0.5))
    head.init_weights()
    assert (head.fc.weight == 0.5).all()


def test_bias_starts_at_zero():
    head = EfficientNetHead(num_classes=100, in_channels=512)
    head.init_weights()
    assert head.fc.bias.abs().max() == 0


@pytest.mark.parametrize(('wrong', 'message'), [
    (dict(num_classes=0, arch='b0'), 'num_classes=0 must be a whole number above 0'),
    (dict(num_classes=-3, arch='b0'), 'num_classes=-3 must be a whole number above 0'),
    (dict(num_classes='3', arch='b0'), "num_classes='3' must be a whole number above 0"),
    (dict(num_classes=3), 'the head needs in_channels, or arch to take it from'),
    (dict(num_classes=3, in_channels=8, dropout=1), 'dropout=1 must be at least 0, below 1'),
    (dict(num_classes=3, in_channels=8, dropout=-0.1), r'dropout=-0\.1 must be at least 0'),
    (dict(num_classes=3, arch='b0', dropout='0.2'), r"dropout='0\.2' must be at least 0"),
    (dict(num_classes=3, arch='b0', topk='1'), "topk='1' must be whole numbers above 0"),
    (dict(num_classes=3, arch='b0', topk=-1), 'topk=-1 must be whole numbers above 0'),
    (dict(num_classes=3, arch='b0', topk=0), 'topk=0 must be whole numbers above 0'),
    (dict(num_classes=3, arch='b0', topk=[]), r'topk=\[\] must be whole numbers above 0'),
    (dict(num_classes=3, arch='b-3'), "arch='b-3' is not a variant; did you mean 'b3'")])
def test_wrong_argument_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetHead(**wrong)


# What it gives.

def test_keys_are_those_of_mmpretrains_linear_head():
    ours = EfficientNetHead(num_classes=3, in_channels=8)
    theirs = LinearClsHead(num_classes=3, in_channels=8)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_scores_are_those_of_mmpretrains_linear_head_in_eval():
    ours = EfficientNetHead(num_classes=3, in_channels=8, dropout=0.5).eval()
    theirs = LinearClsHead(num_classes=3, in_channels=8).eval()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(features()), theirs(features()))


def test_dropout_zeroes_features_in_training_and_scales_the_rest():
    head = EfficientNetHead(num_classes=3, in_channels=1000, dropout=0.25)
    (x, ) = features(channels=1000)
    seen = head.train().pre_logits((x, ))
    kept = seen != 0
    assert 1 - kept.double().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(seen[kept], x[kept] / 0.75)


def test_no_feature_is_dropped_in_eval():
    head = EfficientNetHead(num_classes=3, in_channels=8, dropout=0.5).eval()
    assert torch.equal(head.pre_logits(features()), features()[0])


def test_loss_is_the_cross_entropy_of_the_scores():
    head = EfficientNetHead(num_classes=3, in_channels=8).train()
    (loss, ) = head.loss(features(), samples(0, 2, 1, 1)).values()
    expected = nn.functional.cross_entropy(head(features()), torch.tensor([0, 2, 1, 1]))
    torch.testing.assert_close(loss, expected)


def test_loss_reaches_the_weights():
    head = EfficientNetHead(num_classes=3, in_channels=8, dropout=0.2).train()
    head.loss(features(), samples(0, 2, 1, 1))['loss'].backward()
    assert head.fc.weight.grad.abs().sum() > 0


def test_accuracies_are_calculated_in_training_when_asked_for():
    head = EfficientNetHead(num_classes=6, in_channels=8, topk=(1, 5), cal_acc=True).train()
    losses = head.loss(features(), samples(0, 5, 1, 1))
    assert losses.keys() == {'loss', 'accuracy_top-1', 'accuracy_top-5'}


# Accuracies that cannot be.

def test_top_5_of_three_classes_is_dropped():
    head = EfficientNetHead(num_classes=3, in_channels=8, topk=(1, 5), cal_acc=True).train()
    assert head.loss(features(), samples(0, 2, 1, 1)).keys() == {'loss', 'accuracy_top-1'}


def test_dropping_top_5_is_said_once(notices):
    head = EfficientNetHead(num_classes=3, in_channels=8, topk=(1, 5), cal_acc=True).train()
    for _ in range(2):
        head.loss(features(), samples(0, 2, 1, 1))
    assert notices == ['topk=(1, 5) is cut to (1,): there are 3 classes']


def test_nothing_is_said_where_nothing_is_dropped(notices):
    EfficientNetHead(num_classes=5, in_channels=8, topk=(1, 5))
    assert notices == []


@pytest.mark.parametrize(('asked', 'kept'), [
    ((1, 5), (1, )), ([1, 2], (1, 2)), (1, (1, )),
    # A lone top-5 becomes top-3, so that there is a metric at all.
    ((5, ), (3, )), (5, (3, ))])
def test_topk_is_cut_to_the_classes(asked, kept):
    assert EfficientNetHead(num_classes=3, in_channels=8, topk=asked).topk == kept


def test_the_loss_is_found_whatever_the_default_scope():
    init_default_scope('mmengine')  # a tool or a test before has set it
    head = EfficientNetHead(num_classes=10, in_channels=8)
    assert head.loss_module.__class__.__module__.startswith('mmpretrain.')
