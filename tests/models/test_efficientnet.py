"""The backbone's arguments, outputs and errors."""
import copy
import inspect
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT
from mmengine.registry import init_default_scope
from peers import TINY
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet import VARIANTS, EfficientNet, ModelScaling
from mmeffnet.errors import InputError
from mmeffnet.models.layer_configs import complete_norm_cfg
from mmeffnet.registry import MODELS

EDGE = ['es', 'em', 'el']


def on_meta(**options):
    with torch.device('meta'):
        return EfficientNet(**options).eval()


def outputs(network, height=64, width=64, channels=3, device='cpu'):
    return network(torch.zeros((1, channels, height, width), device=device))


def norms_of(network, kind=_BatchNorm):
    return [module for module in network.modules() if isinstance(module, kind)]


def names_of(network, *kinds):
    return {type(m).__name__ for m in network.modules() if type(m).__name__ in kinds}


def test_arguments_are_those_of_mmpretrain_and_six_more():
    from mmpretrain.models import EfficientNet as Theirs
    ours, theirs = (list(inspect.signature(cls).parameters) for cls in (EfficientNet, Theirs))
    # In their order, too.
    assert ours == [*theirs, 'in_channels', 'scaling', 'output_stride', 'memory_efficient',
                    'fast_gradients', 'deploy']


def test_misspelt_argument_is_refused_when_built():
    with pytest.raises(TypeError, match='drop_path_rat'):
        MODELS.build(dict(type='mmeffnet.EfficientNet', arch=TINY, drop_path_rat=0.2))


@pytest.mark.parametrize('name', EDGE)
def test_edge_tpu_needs_no_key_but_arch(name):
    network = on_meta(arch=name)
    assert names_of(network, 'ReLU', 'SiLU', 'Swish', 'Sigmoid', 'SqueezeExcite') == {'ReLU'}


@pytest.mark.parametrize('name', ['lite0', 'lite4'])
def test_lite_has_relu6_and_no_squeeze_and_excitation(name):
    network = on_meta(arch=name)
    assert names_of(network, 'ReLU6', 'SiLU', 'Swish', 'Sigmoid', 'SqueezeExcite') == {'ReLU6'}


def test_act_cfg_replaces_every_activation_but_the_gate():
    network = on_meta(arch='b0', act_cfg=dict(type='GELU'))
    assert names_of(network, 'GELU', 'SiLU', 'Sigmoid') == {'GELU', 'Sigmoid'}


def test_stem_halves_224_and_stages_follow_the_strides_1_2_2_2_1_2_1():
    sizes, network = [], on_meta(arch='b0')
    seen = [network.layers[0], *(block for group in network.layers[1:-1] for block in group)]
    for layer in seen:
        layer.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))
    outputs(network, height=224, width=224, device='meta')
    ends = torch.tensor([1, 2, 2, 3, 3, 4, 1]).cumsum(0).tolist()  # last block of each stage
    assert [sizes[i] for i in (0, *ends)] == [112, 112, 56, 28, 14, 14, 7, 7]


def test_b7_offers_a_pyramid_48_80_224_and_640_channels():
    network = on_meta(arch='b7', out_indices=(2, 3, 4, 5))
    outs = outputs(network, height=64, width=64, device='meta')
    assert [tuple(out.shape[1:]) for out in outs] == [
        (48, 16, 16), (80, 8, 8), (224, 4, 4), (640, 2, 2)]


def test_head_of_b7_has_2560_channels():
    network = on_meta(arch='b7')
    (out, ) = outputs(network, device='meta')
    assert out.shape[1:] == (2560, 2, 2)
    assert network.out_channels == 2560


def test_outputs_round_sizes_up_and_match_the_description():
    network = EfficientNet(arch=TINY, out_indices=tuple(range(7))).eval()
    outs = outputs(network, height=50, width=37)
    arch = network.arch
    assert [tuple(out.shape[1:]) for out in outs] == [
        (channels, math.ceil(50 / stride), math.ceil(37 / stride))
        for channels, stride in zip(arch.out_channels, arch.out_strides, strict=True)]


def test_outputs_come_in_ascending_order_and_negative_ones_count_from_the_end():
    outs = outputs(EfficientNet(arch=TINY, out_indices=(-1, 2, 0)).eval())
    assert [out.shape[1] for out in outs] == [8, 12, 32]


@pytest.mark.parametrize(('wrong', 'rule'), [
    ((7, ), r'out_indices=\(7,\) must lie in 0\.\.6, and 7 does not'),
    ((0, -8), r'must lie in 0\.\.6, and -8 does not'),
    (('stem', ), r"must lie in 0\.\.6, and 'stem' does not"),
    ((), r'out_indices=\(\) must be a sequence of output indices'),
    (4, 'out_indices=4 must be a sequence of output indices')])
def test_wrong_out_indices_are_refused(wrong, rule):
    with pytest.raises(ValueError, match=rule):
        EfficientNet(arch=TINY, out_indices=wrong)


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5])
def test_drop_path_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=f'drop_path_rate={rate} must be at least 0, below 1'):
        EfficientNet(arch=TINY, drop_path_rate=rate)


@pytest.mark.parametrize(('wrong', 'rule'), [
    (dict(frozen_stages=1.0), r'frozen_stages=1\.0 must be from 0 .* to 7'),
    (dict(frozen_stages='1'), "frozen_stages='1' must be from 0 .* to 7"),
    (dict(in_channels=-1), 'in_channels=-1 must be a whole number above 0'),
    (dict(drop_path_rate='0.2'), r"drop_path_rate='0\.2' must be at least 0, below 1"),
    (dict(in_channels=True), 'in_channels=True must be a whole number above 0'),
    (dict(in_channels='3'), "in_channels='3' must be a whole number above 0"),
    (dict(norm_cfg=dict(type='BNN')), "norm_cfg={'type': 'BNN'} must .* registered layer"),
    (dict(norm_cfg=dict(eps=1e-5)), r"norm_cfg={.*} must be a dict with a type.*\(type='BN'\)"),
    (dict(norm_cfg='BN'), "norm_cfg='BN' must be a dict with a type"),
    (dict(act_cfg=dict(inplace=True)), r"act_cfg={.*} must be a dict with a type.*'SiLU'\)"),
    (dict(conv_cfg='Conv2d'), r"conv_cfg='Conv2d' must be a dict with a type.*'Conv2d'\)")])
def test_wrong_argument_is_refused_when_built(wrong, rule):
    with pytest.raises(ValueError, match=rule):
        EfficientNet(arch=TINY, **wrong)


@pytest.mark.parametrize('norm_cfg', [None, dict(type='SyncBN')],
                         ids=['default', 'SyncBN'])
@pytest.mark.parametrize('name', VARIANTS)
def test_batch_norm_has_eps_and_momentum_of_the_reference(name, norm_cfg):
    norms = norms_of(on_meta(arch=name, norm_cfg=norm_cfg))
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize('kind', ['BN', nn.BatchNorm2d, 'MMSyncBN', 'OwnNorm'])
def test_a_batch_norm_by_any_name_or_class_is_one(kind, monkeypatch):
    # mmcv's own needs its operators; that of the default scope is found as mmcv finds it.
    monkeypatch.setitem(ROOT._module_dict, 'MMSyncBN', nn.Module)
    monkeypatch.setitem(MODELS._module_dict, 'OwnNorm', nn.BatchNorm3d)
    init_default_scope('mmeffnet')
    assert complete_norm_cfg(dict(type=kind)) == dict(type=kind, eps=1e-3, momentum=0.01)


def test_sync_batch_norm_runs_in_a_cpu_process_after_conversion():
    network = EfficientNet(arch=TINY, norm_cfg=dict(type='SyncBN'))
    assert norms_of(network, nn.SyncBatchNorm) == norms_of(network)
    converted = revert_sync_batchnorm(network).train()
    outputs(converted)
    assert {(norm.eps, norm.momentum) for norm in norms_of(converted)} == {(1e-3, 0.01)}


def test_stated_eps_and_momentum_are_kept():
    network = on_meta(arch='b0', norm_cfg=dict(type='BN', eps=1e-5, momentum=0.1))
    assert {(norm.eps, norm.momentum) for norm in norms_of(network)} == {(1e-5, 0.1)}


def test_group_norm_replaces_batch_norm_and_keeps_its_own_eps():
    network = on_meta(arch='b0', norm_cfg=dict(type='GN', num_groups=8))
    assert norms_of(network) == []
    assert {norm.eps for norm in norms_of(network, nn.GroupNorm)} == {1e-5}


@pytest.mark.parametrize('options', [
    dict(arch='b0', conv_cfg=dict(type='Conv2d')), dict(arch={**TINY, 'padding': 'symmetric'})],
    ids=['conv_cfg', 'arch'])
def test_layer_or_architecture_asks_for_symmetric_padding(options):
    network = on_meta(**options)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert {type(conv) for conv in convs} == {nn.Conv2d}
    assert all(conv.padding == (k // 2, k // 2) for conv in convs
               for k in conv.kernel_size[:1])


@pytest.mark.parametrize('channels', [1, 4, np.int64(2)])
def test_input_may_have_other_than_three_channels(channels):
    (out, ) = outputs(EfficientNet(arch=TINY, in_channels=channels).eval(), channels=channels)
    assert out.shape == (1, 32, 2, 2)


@pytest.mark.parametrize('scaling', [
    dict(type='mmeffnet.ModelScaling', width=1.2, depth=1.4, resolution=300),
    ModelScaling(width=1.2, depth=1.4, resolution=300)], ids=['config', 'object'])
def test_scaling_b0_by_the_coefficients_of_b3_is_b3(scaling):
    assert on_meta(arch='b0', scaling=scaling).arch == VARIANTS['b3'].arch


def test_scaling_applies_to_an_architecture_of_ones_own():
    network = on_meta(arch=TINY, scaling=dict(type='mmeffnet.ModelScaling', width=2.0))
    assert network.arch.out_channels == (16, 16, 24, 32, 48, 56, 64)


def test_scaling_something_scaled_is_refused():
    with pytest.raises(ValueError, match="arch='b3' is scaled already .*'b0', 'es' or 'lite0'"):
        EfficientNet(arch='b3', scaling=dict(type='mmeffnet.ModelScaling', phi=1))


def test_scaling_that_is_no_scaling_is_refused():
    with pytest.raises(ValueError, match=r'scaling=1\.5 must be a dict of the arguments of Mode'):
        EfficientNet(arch='b0', scaling=1.5)


def test_weights_may_be_of_other_parts_alone_once_some_were_loaded():
    network = EfficientNet(arch=TINY)
    with pytest.raises(InputError, match='belongs to the backbone .* would stay random'):
        network.load_state_dict({}, strict=False)
    network.load_state_dict(network.state_dict())
    network.load_state_dict({}, strict=False)


def test_unknown_arch_is_refused_naming_the_nearest():
    with pytest.raises(ValueError, match="arch='b-7' is not a variant; did you mean 'b7'"):
        EfficientNet(arch='b-7')


def test_config_file_may_describe_its_own_architecture():
    backbone = Config(dict(backbone=dict(type='mmeffnet.EfficientNet', arch=TINY))).backbone
    assert MODELS.build(backbone).arch.out_channels == (8, 8, 12, 16, 24, 28, 32)


def test_building_changes_no_config():
    config = dict(type='mmeffnet.EfficientNet', arch=copy.deepcopy(TINY), init_cfg=[],
                  norm_cfg=dict(type='BN'), conv_cfg=dict(type='Conv2d'),
                  act_cfg=dict(type='ReLU'),
                  scaling=dict(type='mmeffnet.ModelScaling', phi=1))
    before = copy.deepcopy(config)
    MODELS.build(config)
    assert config == before


@pytest.mark.parametrize('call', [False, True], ids=['built', 'init_weights called'])
def test_weights_start_by_the_reference_rule(call):
    network = EfficientNet(arch='b0')
    if call:
        network.init_weights()
    head = network.layers[-1]
    # 1x1 with 1280 outputs; 409,600 draws, so the measured std is within half a percent.
    assert head.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 1280), rel=5e-3)
    assert bool((head.bn.weight == 1).all() and (head.bn.bias == 0).all())


def test_own_init_cfg_replaces_the_reference_rule():
    given = dict(type='Constant', layer='Conv2d', val=0.5)
    network = EfficientNet(arch=TINY, init_cfg=given)
    network.init_weights()
    assert {p.unique().item() for p in [network.layers[0].conv.weight]} == {0.5}
    assert network.init_cfg == given


@pytest.mark.parametrize(('name', 'prefix', 'depth'), [
    ('layers.3.0.se.conv1.conv.bias', '', 3), ('backbone.layers.0.conv.weight', 'backbone.', 0),
    ('head.fc.weight', '', 7), ('backbone.mask_token', 'backbone.', 7)])
def test_depth_of_a_parameter_is_that_of_its_layer_and_last_where_it_has_none(name, prefix, depth):
    assert on_meta(arch=TINY).get_layer_depth(name, prefix) == (depth, 8)
