"""Closed form and measurement against pinned numbers, MMEngine's analysis and fvcore."""
import subprocess
import sys

import pytest
import torch
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer
from mmengine.registry import MODELS
from peers import TINY, whole_network
from test_configs import metafile_models
from torch import nn

import mmeffnet
from mmeffnet.analysis.complexity import complexity
from mmeffnet.analysis.measured import measure

# The model index has them from timm's and torchvision's networks.
INDEX = {m['Name'].split('_')[0].removeprefix('efficientnet-'): m['Metadata']
         for m in metafile_models() if 'Weights' not in m and '-01norm' not in m['Name']
         and '475px' not in m['Name']}
JUDGED = ('b0', 'es', 'lite0', 'b3')


@pytest.mark.parametrize('name', mmeffnet.VARIANTS)
def test_closed_form_gives_the_parameters_and_multiply_adds_of_the_model_index(name):
    found = complexity(name)
    assert found.parameters == INDEX[name]['Parameters']
    assert found.multiply_adds == INDEX[name]['FLOPs']
    assert found.flops == 2 * found.multiply_adds


@pytest.mark.parametrize('name', JUDGED)
def test_closed_form_agrees_with_mmengines_analysis_operator_by_operator(name):
    model = whole_network(name).to_empty(device='cpu')  # tracing SAME padding needs memory
    image = (torch.empty((1, 3, 97, 64)), )
    flops = FlopAnalyzer(model, image).unsupported_ops_warnings(False)
    by_operator = flops.uncalled_modules_warnings(False).by_operator()
    activations = ActivationAnalyzer(model, image).unsupported_ops_warnings(False)
    found = complexity(name, (97, 64))
    assert found.multiply_adds == by_operator['conv'] + by_operator['linear']
    assert found.activations == activations.uncalled_modules_warnings(False).total()
    # Its total is larger by normalisation and pooling: the difference the docstring speaks of.
    assert 1 < sum(by_operator.values()) / found.multiply_adds < 1.06


@pytest.mark.parametrize('name', JUDGED)
def test_closed_form_agrees_with_fvcore(name):
    fvcore = pytest.importorskip('fvcore.nn', reason='pip install fvcore')
    model = whole_network(name).to_empty(device='cpu')  # tracing SAME padding needs memory
    image = (torch.empty((1, 3, 64, 97)), )
    by_operator = fvcore.FlopCountAnalysis(model, image).unsupported_ops_warnings(
        False).by_operator()
    found = complexity(name, (64, 97))
    assert found.multiply_adds == by_operator['conv'] + by_operator['linear']
    assert found.parameters == fvcore.parameter_count(model)['']


@pytest.mark.parametrize('output_stride', [None, 8, 16])
@pytest.mark.parametrize('arch', ['b0', 'es', TINY], ids=['b0', 'es', 'tiny'])
def test_measurement_agrees_with_closed_form(arch, output_stride):
    network = dict(type='mmeffnet.EfficientNet', arch=arch, output_stride=output_stride,
                   in_channels=4)
    found = measure(network, (64, 97), in_channels=4)
    expected = complexity(arch, (64, 97), in_channels=4, output_stride=output_stride,
                          num_classes=None)
    for name in ('parameters', 'multiply_adds', 'activations'):
        assert getattr(found, name) == getattr(expected, name)
    assert [p.name for p in found.parts] == [f'layers.{i}' for i in range(len(found.parts))]


@pytest.mark.parametrize(('network', 'stages'), [
    (dict(type='mmpretrain.ResNet', depth=50), ['conv1', 'bn1', 'layer1']),
    (dict(type='mmpretrain.MobileNetV2'), ['conv1', 'layer1']),
    (dict(type='mmpretrain.VisionTransformer', arch='deit-t', img_size=64), ['layers.0'])],
    ids=['resnet', 'mobilenet', 'transformer'])
def test_any_registered_backbone_is_measured_as_mmengine_counts_it(network, stages):
    found = measure(network, 64)
    model, image = MODELS.build(dict(network)), (torch.zeros(1, 3, 64, 64), )
    model.eval()  # mmpretrain's gives nothing back
    by_operator = FlopAnalyzer(model, image).unsupported_ops_warnings(False).by_operator()
    kinds = ('conv', 'linear', 'matmul')
    counted = sum(by_operator.get(kind, 0) for kind in kinds)
    attention = 'Transformer' in network['type']  # MMEngine does not see fused attention
    assert found.multiply_adds == counted or (attention and found.multiply_adds > counted)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert set(stages) <= {part.name for part in found.parts}


def test_a_network_of_one_layer_is_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 36, 5))
    found = measure(network, 8, in_channels=4)
    assert [p.parameters for p in found.parts] == [6 * 2 * 9 + 6, 6 * 36 * 5 + 5]
    assert [p.multiply_adds for p in found.parts] == [6 * 36 * 2 * 9, 6 * 36 * 5]
    assert found.activations == 6 * 36 + 5
    assert next(network.parameters()).device.type == 'cpu'  # the network stays as it is


def test_tied_weights_count_once():
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    network[1].weight = network[0].weight
    found = measure(network, 4)
    assert (found.parameters, found.multiply_adds) == (9, 2 * 9 * 16)


def test_the_table_has_a_line_for_each_part_and_the_total():
    lines = str(complexity('b0')).splitlines()
    assert [line.split()[0] for line in lines] == [
        'part', 'stem', *(f'stage{i}' for i in range(1, 8)), 'head', 'classifier', 'total']
    assert lines[-1].split()[1:] == ['5,288,548', '385,814,752', '6,748,036']


def test_scaling_brings_its_own_resolution():
    scaling = dict(type='mmeffnet.ModelScaling', width=2.0, depth=3.1, resolution=600)
    assert complexity('b0', scaling=scaling) == complexity('b7')


def test_closed_form_needs_no_torch():
    code = ("import sys, mmeffnet; mmeffnet.complexity('b0'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(arch='b9'), "arch='b9' is not a variant"),
    (dict(resolution=0), 'resolution=0 must be whole pixels above 0'),
    (dict(resolution=224.0), 'resolution=224.0 must be whole pixels above 0'),
    (dict(resolution='64'), "resolution='64' must be whole pixels above 0"),
    (dict(resolution=(64, 1.5)), r'resolution=\(64, 1.5\) must be whole pixels above 0'),
    (dict(arch=TINY), 'an architecture has no resolution of its own'),
    (dict(num_classes=0), 'num_classes=0 must be a whole number above 0'),
    (dict(num_classes=True), 'num_classes=True must be a whole number above 0'),
    (dict(in_channels=0), 'in_channels=0 must be a whole number above 0'),
    (dict(in_channels=2.5), 'in_channels=2.5 must be a whole number above 0'),
    (dict(output_stride=5), 'output_stride=5 must be None or one of the strides')])
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        complexity(**arguments)


def test_networks_that_cannot_be_built_or_run_are_named():
    with pytest.raises(ValueError, match='cannot be built: .*depth'):
        measure(dict(type='mmpretrain.ResNet', depth=51), 64)
    with pytest.raises(ValueError, match='Linear cannot be run without memory at 8x8'):
        measure(nn.Linear(3, 3), 8)
