"""Whole models and the weights that are to fill them."""
import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS

from mmeffnet.engine.checkpoint import AnyWeightsHook, load_whole
from mmeffnet.errors import InputError
from mmeffnet.models import EfficientNet

CAT_DOG = dict(meta=dict(dataset_meta=dict(classes=['cat', 'dog'])))  # as a training says it


@pytest.fixture
def source():
    return EfficientNet(arch='lite0')


def test_a_backbone_alone_is_said_to_be_one(source, tmp_path):
    model = torch.nn.ModuleDict(dict(
        backbone=EfficientNet(arch='lite0'),
        head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(1280, 10)))))
    torch.save(source.state_dict(), tmp_path / 'backbone.pth')
    with pytest.raises(InputError, match='lacks 2 tensors of the model: head.fc.weight, '
                                         'head.fc.bias; it holds a backbone alone'):
        load_whole(tmp_path / 'backbone.pth', model)


def test_whole_weights_are_loaded(source, tmp_path):
    target = EfficientNet(arch='lite0')
    torch.save(dict(state_dict=source.state_dict(), **CAT_DOG), tmp_path / 'whole.pth')
    assert load_whole(tmp_path / 'whole.pth', target) == ('cat', 'dog')
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_a_neck_beside_the_network_is_loaded_too_or_missed(source, tmp_path):
    def detector():
        return torch.nn.ModuleDict(dict(backbone=EfficientNet(arch='lite0'),
                                        neck=torch.nn.Linear(2, 2)))
    whole, target = detector(), detector()
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    load_whole(tmp_path / 'whole.pth', target)
    assert torch.equal(target['neck'].weight, whole['neck'].weight)
    torch.save(source.state_dict(), tmp_path / 'backbone.pth')
    with pytest.raises(InputError, match='lacks 2 tensors of the model: neck.weight, neck.bias'):
        load_whole(tmp_path / 'backbone.pth', target)


def test_another_projects_network_is_loaded_as_it_is(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / 'linear.pth')
    assert load_whole(tmp_path / 'linear.pth', target) == ()
    torch.save(dict(state_dict=source.state_dict(), **CAT_DOG), tmp_path / 'linear.pth')
    assert load_whole(tmp_path / 'linear.pth', target) == ('cat', 'dog')
    assert torch.equal(target.weight, source.weight)


TINY = dict(stem=4, head=8, stages=dict(first=dict(
    block='mbconv', kernel=3, stride=2, expand=1, channels=4, repeats=1)))


def classifier(classes=3, channels=3):
    return torch.nn.ModuleDict(dict(
        backbone=EfficientNet(arch=TINY, in_channels=channels),
        head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(8, classes)))))


def filled(model, value):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def averaging(model, kind, resume=False):
    """A runner of a model, with a hook that averages its weights."""
    options = dict(evaluate_on_origin=True) if kind == 'mmpretrain.EMAHook' else {}
    hook = HOOKS.build(dict(type=kind, momentum=0.3, **options))
    runner = SimpleNamespace(model=model, hooks=[AnyWeightsHook(), hook], _resume=resume,
                             _load_from='averaged.pth', max_iters=1, max_epochs=1)
    for each in runner.hooks:
        each.before_run(runner)
    return runner, hook


def saved(kind):
    """A checkpoint as MMEngine writes it: weights are 1, and their averages 2."""
    runner, hook = averaging(filled(classifier(), 1), kind)
    filled(hook.ema_model, 2)
    checkpoint = dict(state_dict=runner.model.state_dict(), meta={}, optimizer={})
    hook.before_save_checkpoint(runner, checkpoint)
    return copy.deepcopy(checkpoint)


def load(runner, checkpoint):
    for hook in runner.hooks:
        hook.after_load_checkpoint(runner, checkpoint)
    runner.model.load_state_dict(checkpoint['state_dict'], strict=False)


def values(model, *left_out):
    """The values of all parameters, without those of some keys."""
    return {float(value) for key, tensor in model.named_parameters() if key not in left_out
            for value in tensor.unique()}


def test_weights_before_averaging_are_evaluated_as_they_were_saved():
    runner, hook = averaging(classifier(), 'mmpretrain.EMAHook')
    load(runner, saved('mmpretrain.EMAHook'))
    assert (values(runner.model), values(hook.ema_model)) == ({1}, {2})
    # As evaluated, both changed alike: a sum over RGB.
    runner, hook = averaging(classifier(channels=1), 'mmpretrain.EMAHook')
    load(runner, saved('mmpretrain.EMAHook'))
    stem = 'backbone.layers.0.conv.weight'
    assert (values(runner.model, stem), values(hook.ema_model.module, stem)) == ({1}, {2})
    assert [float(model['backbone'].layers[0].conv.weight.mean())
            for model in (runner.model, hook.ema_model.module)] == [3, 6]


@pytest.mark.parametrize('classes', [3, 5])
@pytest.mark.parametrize('kind', ['mmengine.EMAHook', 'mmpretrain.EMAHook'])
def test_training_from_averages_begins_an_average_of_its_own_with_them(kind, classes):
    runner, hook = averaging(classifier(classes), kind)
    before = copy.deepcopy(runner.model['head'])
    load(runner, saved(kind))
    hook.before_train(runner)
    anew = () if classes == 3 else ('head.fc.weight', 'head.fc.bias')
    for model in (runner.model, hook.ema_model.module):
        assert values(model, *anew) == {2}
        if anew:
            assert torch.equal(model['head'].fc.weight, before.fc.weight)
    assert hook.ema_model.steps == 0


def test_two_hooks_that_average_are_refused_before_the_run():
    runner, first = averaging(filled(classifier(), 1), 'mmpretrain.EMAHook')
    second = EMAHook('StochasticWeightAverage')
    runner.hooks.append(second)
    # What MMEngine would make of them in a validation: the weights are gone after it.
    second.before_run(runner)
    filled(first.ema_model, 2)
    filled(second.ema_model, 3)
    for hook in (first, second):
        hook._swap_ema_parameters()
    for hook in (first, second):
        hook._swap_ema_parameters()
    assert values(runner.model) == {2}
    message = (r"custom_hooks averages weights 2 times \(EMAHook with "
               r"ema_type='ExponentialMovingAverage', EMAHook with "
               r"ema_type='StochasticWeightAverage'\).*; leave one of them")
    with pytest.raises(InputError, match=message):
        runner.hooks[0].before_run(runner)
