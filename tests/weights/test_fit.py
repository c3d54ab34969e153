"""What may differ between weights and a network, and what may not."""
from dataclasses import replace

import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.models.loading import fit_backbone
from mmeffnet.weights import load_weights
from mmeffnet.weights.fit import fit_stem
from mmeffnet.weights.translate import to_layout

ARCH = VARIANTS['lite0'].arch


@pytest.fixture(scope='module')
def state():
    torch.manual_seed(0)
    return EfficientNet('lite0').state_dict()


def theirs(state, classes=0):
    """The state under timm's keys, with a classifier of so many classes."""
    whole = {f'backbone.{k}': v for k, v in state.items()}
    if classes:
        whole |= {'head.fc.weight': torch.zeros(classes, 1280),
                  'head.fc.bias': torch.zeros(classes)}
    return to_layout(whole, ARCH, 'timm')


def test_a_state_dict_of_another_library_loads_strictly_and_says_what_it_left_out(state, said):
    network = EfficientNet('lite0')
    network.load_state_dict(theirs(state, classes=1000), strict=True)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert said[0] == ('the state dict: head.fc.weight and head.fc.bias left out, '
                       'the backbone takes no classifier')
    unsaid, = said[1:]  # the keys are those of timm's networks of either padding
    assert unsaid.startswith('the state dict does not tell its padding: ')


def test_a_grey_stem_answers_a_grey_image_as_the_one_for_rgb_does(state):
    grey, rgb = EfficientNet('lite0', in_channels=1).eval(), EfficientNet('lite0').eval()
    grey.load_state_dict(theirs(state))
    rgb.load_state_dict(state)
    image = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(grey(image)[0], rgb(image.expand(1, 3, 32, 32))[0])


@pytest.mark.parametrize('channels', [2, 4, 6, 7])
def test_a_stem_of_more_channels_repeats_rgb_and_keeps_the_scale(channels):
    timm_rule = pytest.importorskip('timm.models', reason='timm is a judge').adapt_input_conv
    kernel = torch.randn(8, 3, 3, 3)
    ours = fit_stem(kernel, channels, 'file')
    torch.testing.assert_close(ours, timm_rule(channels, kernel))


def test_a_stem_for_other_channels_is_refused(state):
    grey = {**theirs(state), 'conv_stem.weight': torch.ones(32, 1, 3, 3)}
    with pytest.raises(InputError, match='stem for 1 channels, .* in_channels=3: only a stem for'):
        EfficientNet('lite0').load_state_dict(grey)


def test_another_variant_is_named(state):
    with pytest.raises(InputError, match="is of variant 'lite0', and the config builds 'lite1'"):
        EfficientNet('lite1').load_state_dict(theirs(state))


def test_our_own_keys_of_another_variant_are_refused_in_a_whole_model_too(state):
    """MMEngine would load what fits and leave the rest random, with a warning."""
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('lite1')))
    with pytest.raises(InputError, match="is of variant 'lite0', and the config builds 'lite1'"):
        model.load_state_dict({f'backbone.{k}': v for k, v in state.items()}, strict=False)
    stem = {'backbone.layers.0.conv.weight': state['layers.0.conv.weight']}
    model.load_state_dict(stem, strict=False)  # a part that is meant alone


def test_the_stem_under_our_own_keys_is_fitted_too(state):
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('lite0', in_channels=1)))
    model.load_state_dict({f'backbone.{k}': v for k, v in state.items()}, strict=True)
    rgb = state['layers.0.conv.weight']
    assert rgb.shape[1] == 3
    assert torch.equal(model['backbone'].layers[0].conv.weight, rgb.sum(1, keepdim=True))


@pytest.mark.parametrize('change', [
    dict(activation='ReLU'), dict(padding='symmetric'),
    dict(stages=[replace(stage, name=f'my{i}') for i, stage in enumerate(ARCH.stages)])],
    ids=lambda change: [*change][0])
@pytest.mark.parametrize('known', [True, False])
def test_a_variant_with_an_edited_field_loads_its_own_checkpoint(change, known, state, tmp_path):
    network = EfficientNet(replace(ARCH, **change))
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'own.pth')
    again = EfficientNet(replace(ARCH, **change))
    weights = load_weights(tmp_path / 'own.pth', also=again.arch if known else None)
    again.load_state_dict(fit_backbone(again, weights))
    assert all(torch.equal(again.state_dict()[key], value)
               for key, value in network.state_dict().items())
    wider = EfficientNet(replace(ARCH, head=640))
    with pytest.raises(InputError, match="of variant 'lite0', and the config builds another arch"):
        fit_backbone(wider, load_weights(tmp_path / 'own.pth', also=wider.arch))


def test_a_missing_tensor_is_named_with_the_variant(state):
    lacking = theirs(state)
    del lacking['blocks.3.1.conv_pw.weight'], lacking['conv_head.weight']
    with pytest.raises(InputError, match=r"variant 'lite0'\) lacks 2 tensors of the model: .*"
                                         r'layers.4.1.expand_conv.conv.weight'):
        EfficientNet('lite0').load_state_dict(lacking)


def test_a_tensor_of_another_shape_is_named(state):
    wrong = {**theirs(state), 'conv_head.weight': torch.ones(1280, 320, 3, 3)}
    with pytest.raises(InputError, match='layers.6.conv.weight is 1280x320x3x3 and has to be '
                                         '1280x320x1x1'):
        EfficientNet('lite0').load_state_dict(wrong)


def test_layers_that_never_run_may_be_missing(state):
    headless = {k: v for k, v in theirs(state).items() if not k.startswith(('conv_head', 'bn2'))}
    network = EfficientNet('lite0', out_indices=(2, 3, 4, 5))
    network.load_state_dict(headless, strict=False)
    assert torch.equal(network.layers[5][0].linear_conv.conv.weight,
                       state['layers.5.0.linear_conv.conv.weight'])


def test_a_load_that_matches_nothing_is_an_error_until_weights_are_there(state):
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('lite0'), neck=torch.nn.Linear(2, 2)))
    neck = {f'neck.{k}': v for k, v in model['neck'].state_dict().items()}
    with pytest.raises(InputError, match='no tensor of the checkpoint belongs to the backbone '
                                         r'\("backbone.layers...'):
        model.load_state_dict(neck, strict=False)
    model['backbone'].load_state_dict(state)
    model.load_state_dict(neck, strict=False)  # the neck alone, onto a trained backbone


def test_numerics_that_do_not_suit_the_network_are_one_warning(said):
    torchvision = pytest.importorskip('torchvision')
    with torch.device('meta'):
        state = torchvision.models.efficientnet_b0().state_dict()
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    EfficientNet('b0').load_state_dict(state)
    assert said[-1] == (
        'the state dict was trained with padding symmetric where the model has same and '
        "BatchNorm eps 1e-05 where the model has 0.001: outputs will be off. Set backbone."
        "conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-05), "
        'or eps alone where norm_cfg has a type')
    said.clear()
    EfficientNet('b0', conv_cfg=dict(type='Conv2d'),
                 norm_cfg=dict(type='BN', eps=1e-5)).load_state_dict(state)
    assert not [line for line in said if 'was trained' in line]


@pytest.mark.parametrize(('key', 'value', 'words'), [
    ('conv_head.weight', torch.nan, 'values that are not finite, as of a training that diverged: '
     'backbone.layers.6.conv.weight'),
    ('bn1.running_var', torch.inf, 'values that are not finite, as of a training that diverged: '
     'backbone.layers.0.bn.running_var'),
    ('bn1.running_var', -1e-3, 'variances below zero, whose root is no number: '
     'backbone.layers.0.bn.running_var')])
def test_values_that_make_every_output_no_number_are_one_warning(key, value, words, state, said,
                                                                 tmp_path):
    broken = theirs(state)
    broken[key] = broken[key].clone()
    broken[key].view(-1)[1] = value
    torch.save(broken, tmp_path / 'broken.pth')
    network = EfficientNet('lite0', init_cfg=dict(type='Pretrained', checkpoint=str(
        tmp_path / 'broken.pth')))
    network.init_weights()
    assert [line for line in said if 'tensors have' in line] == [
        f'{tmp_path}/broken.pth: 1 tensors have {words}']


def test_what_is_no_tensor_beside_our_keys_is_left_to_pytorch():
    network, other = EfficientNet('lite0'), EfficientNet('lite0')
    found = other.load_state_dict({**network.state_dict(), '_extra_state': dict(a=1)}, strict=False)
    assert found.unexpected_keys == ['_extra_state']
    assert torch.equal(other.layers[0].conv.weight, network.layers[0].conv.weight)
