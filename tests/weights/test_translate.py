"""State dicts as trainers leave them: unwrapped, recognised, translated or refused."""
import numpy as np
import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.weights.translate import to_layout, translate
from mmeffnet.weights.wrappers import weights_of


@pytest.fixture(scope='module')
def lite0():
    """Weights of a whole Lite0 classifier of ours, 7 classes."""
    torch.manual_seed(0)
    state = {f'backbone.{k}': v for k, v in EfficientNet('lite0').state_dict().items()}
    return {**state, 'head.fc.weight': torch.randn(7, 1280), 'head.fc.bias': torch.randn(7)}


@pytest.fixture(scope='module')
def timm_lite0(lite0):
    return to_layout(lite0, VARIANTS['lite0'].arch, 'timm')


@pytest.mark.parametrize('wrapped', [
    lambda w: w, lambda w: {'state_dict': w, 'meta': {}}, lambda w: {'model': w},
    lambda w: {'state_dict': {f'module.{k}': v for k, v in w.items()}},
    lambda w: {'state_dict': {'raw': torch.zeros(1)}, 'state_dict_ema': w},
    lambda w: {'model': {'raw': torch.zeros(1)}, 'model_ema': w, 'optimizer': {}}])
def test_weights_are_found_inside_their_wrappers_the_averaged_ones_first(wrapped):
    weights = {'a.weight': torch.ones(1)}
    assert weights_of(wrapped(weights)) == weights


@pytest.mark.parametrize('nothing', [{}, {'meta': 1}, [torch.ones(1)], {'state_dict': {}}])
def test_a_file_without_weights_is_refused(nothing):
    with pytest.raises(InputError, match='holds no weights'):
        weights_of(nothing)


@pytest.mark.parametrize(('nested', 'place'), [
    (lambda w: dict(state_dict=dict(state_dict=w)), r"\['state_dict'\]\['state_dict'\]"),
    (lambda w: dict(net=w, other=dict(step=torch.ones(1))), r"\['net'\]"),
    (lambda w: dict(models=dict(ema=dict(net=w))), r"\['models'\]\['ema'\]\['net'\]")])
def test_the_entry_that_holds_tensors_is_named(nested, place):
    weights = {'a.weight': torch.ones(1), 'a.bias': torch.ones(1)}
    with pytest.raises(InputError, match=rf'holds no weights: .* tensors lie in checkpoint{place}: '
                                         rf'save that alone, by torch.save\(checkpoint{place}, '):
        weights_of(nested(weights))


@pytest.mark.parametrize(('value', 'kind'), [
    (np.ones(2), 'numpy.ndarray'), ([1.], 'list')], ids=['np', 'list'])
def test_what_stands_in_the_place_of_a_tensor_is_named(value, kind):
    state = {'bn.weight': torch.ones(1), 'bn.running_mean': value, 'epoch': 3}
    for checkpoint in (state, dict(state_dict=state)):
        with pytest.raises(InputError, match=f'^bn.running_mean is no tensor but of {kind}: save'):
            weights_of(checkpoint)


def test_what_is_no_tensor_beside_the_layers_is_left_alone():
    state = {'conv.weight': torch.ones(1)}
    assert weights_of({**state, 'conv.bias': None, 'loss.weight': [1.], 'lr.bias': 3}) == state


@pytest.mark.parametrize('layout', ['mmeffnet', 'timm', 'lukemelas'])
@pytest.mark.parametrize('prefix', ['', 'model.', 'net._orig_mod.'])
def test_there_and_back_loses_nothing(layout, prefix, lite0):
    theirs = to_layout(lite0, VARIANTS['lite0'].arch, layout)
    back = translate({prefix + key: value for key, value in theirs.items()}, 'file')
    assert (back.variant, back.layout, back.classes) == ('lite0', layout, 7)
    assert back.state.keys() == lite0.keys()
    assert all(torch.equal(back.state[key], value) for key, value in lite0.items())


def test_networks_that_a_library_has_not_are_refused(lite0):
    with pytest.raises(InputError, match='torchvision has no blocks without squeeze'):
        to_layout(lite0, VARIANTS['lite0'].arch, 'torchvision')


def test_a_backbone_alone_and_inside_a_detector(lite0):
    alone = {k.removeprefix('backbone.'): v for k, v in lite0.items() if 'backbone' in k}
    assert translate(alone, 'file').classes is None
    detector = {**{f'backbone.{k}': v for k, v in alone.items()}, 'neck.conv.weight': torch.ones(1)}
    found = translate(detector, 'file')
    assert list(found.others) == ['neck.conv.weight']
    assert found.variant == 'lite0'


def test_of_several_networks_one_has_to_be_chosen(timm_lite0):
    both = {f'{who}.{k}': v for who in ('student', 'teacher') for k, v in timm_lite0.items()}
    with pytest.raises(InputError, match="several networks, with the prefixes 'student.', 'teach"):
        translate(both, 'file')
    assert translate(both, 'file', prefix='teacher').variant == 'lite0'
    with pytest.raises(InputError, match="prefix='pupil.'"):
        translate(both, 'file', prefix='pupil')


def test_what_no_variant_has_is_named(timm_lite0):
    with pytest.raises(InputError, match="2 of its tensors belong to no such network: extra.a, e"):
        translate({**timm_lite0, 'extra.a': torch.ones(1), 'extra.b': torch.ones(1)}, 'file')


def test_another_network_is_refused_with_its_keys():
    with pytest.raises(InputError, match=r"no EfficientNet of a known layout .* conv1.weight"):
        translate({'conv1.weight': torch.ones(1)}, 'resnet.pth')
    with pytest.raises(InputError, match=r'keys of torchvision and the shapes of none .*V2'):
        translate({'features.0.0.weight': torch.ones(24, 3, 3, 3)}, 'v2.pth')


@pytest.mark.parametrize(('change', 'what'), [
    (lambda t: t.to(torch.int8), 'is of int8, and weights are .* or float64: save the weights bef'),
    (lambda t: t.to(torch.int64), 'is of int64'), (lambda t: t.bool(), 'is of bool'),
    (lambda t: t.to(torch.complex64), 'is of complex64'),
    (lambda t: t.to(torch.float8_e4m3fn), 'is of float8_e4m3fn'),
    (lambda t: t.to_sparse(), r'is sparse_coo, .*: save it as a dense tensor, by to_dense\(\)'),
    (lambda t: t.to('meta'), "is on the device 'meta', without numbers, .* network whose weights")])
@pytest.mark.parametrize('layout', ['timm', 'mmeffnet'])
def test_tensors_that_are_no_floating_point_numbers_are_refused(layout, change, what, lite0):
    """PyTorch copies whole numbers without their scale, and says nothing."""
    theirs = to_layout(lite0, VARIANTS['lite0'].arch, layout)
    key = next(key for key, value in theirs.items() if value.shape == (96, 1, 3, 3))
    with pytest.raises(InputError, match=f"^'file': {key} {what}"):
        translate({**theirs, key: change(theirs[key])}, 'file')


def test_the_first_of_many_such_tensors_is_named_and_the_others_counted(timm_lite0):
    quantised = {key: (value * 127).to(torch.int8) for key, value in timm_lite0.items()}
    with pytest.raises(InputError, match=r'conv_stem.weight is of int8 \(and 246 more are no such'):
        translate(quantised, 'file')


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_numbers_of_any_width_are_taken(kind, timm_lite0):
    given = {k: v.to(kind) if v.is_floating_point() else v for k, v in timm_lite0.items()}
    beside = {'neck.anchors': torch.ones(3, dtype=torch.int64)}
    found = translate({**{f'model.{k}': v for k, v in given.items()}, **beside}, 'file')
    assert found.state['head.fc.bias'].dtype == kind


@pytest.mark.parametrize(('layout', 'stem'), [('mmeffnet', 'backbone.layers.0.conv.weight'),
                                              ('timm', 'conv_stem.weight'),
                                              ('lukemelas', '_conv_stem.weight')])
def test_a_stem_that_is_missing_is_named(layout, stem, lite0):
    theirs = to_layout(lite0, VARIANTS['lite0'].arch, layout)
    del theirs[stem]
    with pytest.raises(InputError, match=rf"keys of .* and lacks model\.{stem}, the stem that"):
        translate({f'model.{k}': v for k, v in theirs.items()}, 'file')


@pytest.mark.parametrize(('turned', 'message'), [
    (lambda v: v.permute(2, 3, 1, 0), 'blocks.0.0.conv_dw.weight is 3x3x1x32 and .* 32x1x3x3'),
    (lambda v: v.transpose(0, 1), 'blocks.0.0.conv_dw.weight is 1x32x3x3 and has to be 32x1x3x3'),
    (lambda v: v.transpose(0, 1) if v.shape[-1] > 1 and v.shape[1] == 1 else v,
     'blocks.0.0.conv_dw.weight is 1x32x3x3 and has to be 32x1x3x3')],
    ids=['as TensorFlow', 'transposed', 'some'])
def test_kernels_in_another_order_are_named_with_the_nearest_network(turned, message, timm_lite0):
    theirs = {f'net.{key}': turned(value) if value.ndim == 4 else value
              for key, value in timm_lite0.items()}
    with pytest.raises(InputError, match=f'of none .*; lite0 is the nearest, and net.{message}'):
        translate(theirs, 'file')


def test_a_network_that_lacks_many_kernels_is_told_which_is_the_first(timm_lite0):
    theirs = {k: v for k, v in timm_lite0.items() if not k.startswith(('blocks.1.', 'blocks.2.'))}
    with pytest.raises(InputError, match='lite0 is the nearest, and blocks.1.0.conv_dw.weight is '
                                         'missing and has to be 96x1x3x3'):
        translate(theirs, 'file')
