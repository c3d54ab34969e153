"""State dicts as trainers leave them: unwrapped, recognised, translated or refused."""
import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.weights.translate import to_layout, translate, weights_of


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
