"""What a backbone gives, told before it is built."""
import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import TINY

import mmeffnet.features
from mmeffnet import VARIANTS, EfficientNet, ModelScaling, complexity, feature_info
from mmeffnet.features import resolve_arch
from mmeffnet.registry import TASK_UTILS

# timm has no network of this name without weights of the authors' first release.
TIMM_NAMES = [f'tf_efficientnet_{name}' for name in VARIANTS]


@pytest.mark.parametrize('name', TIMM_NAMES)
@pytest.mark.parametrize('output_stride', [32, 16, 8])
def test_channels_and_strides_are_those_of_timms_features(name, output_stride):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    with torch.device('meta'):
        theirs = timm.create_model(name, features_only=True, output_stride=output_stride)
    ours = feature_info(name.removeprefix('tf_efficientnet_'), range(1, 6),
                        output_stride=output_stride)
    assert ours.channels == theirs.feature_info.channels()
    assert ours.strides == theirs.feature_info.reduction()


@pytest.mark.parametrize('padding', ['same', 'symmetric'])
@pytest.mark.parametrize('output_stride', [None, 2, 4, 8, 16, 32])
def test_outputs_really_have_the_channels_and_strides_told(output_stride, padding):
    with torch.device('meta'):
        network = EfficientNet(arch={**TINY, 'padding': padding}, out_indices=range(7),
                               output_stride=output_stride)
        outs = network.eval()(torch.empty(1, 3, 64, 96))
    assert network.feature_info == feature_info(TINY, output_stride=output_stride)
    assert [out.shape[1:] for out in outs] == [
        (feature.channels, 64 // feature.stride, 96 // feature.stride)
        for feature in network.feature_info]


def test_built_backbone_tells_the_outputs_it_returns():
    with torch.device('meta'):
        network = EfficientNet(arch='b3', out_indices=(3, 4, 5))
    assert network.feature_info == feature_info('b3', (3, 4, 5))


def test_negative_index_is_the_head():
    (head, ) = feature_info('b0', (-1, ))
    assert (head.index, head.name, head.channels, head.stride) == (6, 'head', 1280, 32)


def test_indices_count_from_both_ends_and_each_output_comes_once():
    assert feature_info('b0', (-7, )) == feature_info('b0', (0, ))
    assert feature_info('b0', (-1, 6)) == feature_info('b0', (6, ))


@pytest.mark.parametrize('indices', [
    np.array([2, 3, 4, 5]), [np.int64(2), np.uint8(3), 4, np.int32(-2)], np.array([5, 4, 3, 2])],
    ids=['array', 'list', 'descending'])
def test_indices_of_numpy_are_indices(indices):
    assert feature_info('b0', indices) == feature_info('b0', (2, 3, 4, 5))
    with torch.device('meta'):
        network = EfficientNet(arch=TINY, out_indices=indices)
    assert network.out_indices == (2, 3, 4, 5)
    assert {type(index) for index in network.out_indices} == {int}


@pytest.mark.parametrize('indices', [np.array([]), np.array(3), np.int64(3), None, ()])
def test_what_is_no_sequence_of_indices_is_refused(indices):
    with pytest.raises(ValueError, match=r'out_indices=.* must be a sequence of output indices'):
        EfficientNet(out_indices=indices)


@pytest.mark.parametrize('indices', [(2, True), np.array([2.0, 3.0]), np.array([[2, 3]])])
def test_what_is_no_whole_number_is_no_index(indices):
    with pytest.raises(ValueError, match=r'^out_indices=.* must lie in 0\.\.6, and .* does not$'):
        feature_info('b0', indices)


def test_scaling_of_a_config_counts():
    scaled = feature_info('b0', scaling=dict(type='mmeffnet.ModelScaling', width=1.2, depth=1.4))
    assert scaled == feature_info('b0', scaling=ModelScaling(width=1.2, depth=1.4))
    assert scaled.channels == feature_info('b3').channels


def test_scaling_without_a_type_is_that_of_ours():
    assert feature_info('b0', scaling=dict(width=1.2, depth=1.4)).channels == feature_info(
        'b3').channels
    assert complexity('b0', scaling=dict(phi=7)).size == (596, 596)  # 224 x 1.15**7


def test_scaling_of_a_config_with_a_scope_counts():
    # As MMEngine leaves it in a config that is inherited by name.
    scaling = dict(type='mmeffnet.ModelScaling', width=1.2, _scope_='mmeffnet')
    assert feature_info('b0', scaling=scaling) == feature_info('b0', scaling=dict(width=1.2))


def test_scaling_of_another_type_is_built_as_that_type():
    @TASK_UTILS.register_module(name='Wider', force=True)
    def wider(by):
        return ModelScaling(width=by)

    assert resolve_arch('b0', dict(type='mmeffnet.Wider', by=2.0)) == resolve_arch(
        'b0', ModelScaling(width=2.0))


@pytest.mark.parametrize('kind', [
    {}, dict(type='ModelScaling'), dict(type='mmeffnet.ModelScaling')])
def test_a_misspelt_field_of_scaling_is_refused_with_the_nearest(kind):
    with pytest.raises(ValueError, match="^scaling: no field is called 'widht'; did you mean 'wi"):
        feature_info('b0', scaling=dict(widht=1.2, **kind))


def test_scaling_that_is_no_dict_is_refused():
    with pytest.raises(ValueError, match=r'scaling=1\.2 must be a dict of the arguments of Model'):
        feature_info('b0', scaling=1.2)


def test_table_in_the_docstring_is_what_is_printed():
    assert doctest.testmod(mmeffnet.features) == (0, 1)  # failed, attempted


def test_stride_that_no_output_has_is_refused():
    with pytest.raises(ValueError, match=r'output_stride=12 must be None or one of the strides '
                                         r'\[2, 4, 8, 16, 32\]'):
        feature_info('b0', output_stride=12)


def test_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="arch='B3' is not a variant; did you mean 'b3'"):
        feature_info('B3')


def test_index_past_the_head_is_refused():
    with pytest.raises(ValueError, match=r'out_indices=\(3, 7\) must lie in 0..6, and 7 does not'):
        feature_info('b0', (3, 7))


def test_the_table_of_the_documentation_holds():
    page = (Path(__file__).parent.parent / 'docs' / 'downstream.md').read_text()
    for name in VARIANTS:
        info = feature_info(name)
        assert info.strides == [2, 2, 4, 8, 16, 32, 32]
        assert f"| {name} | {', '.join(map(str, info.channels))} |" in page
