"""The tables of names: each network is known by its shapes in every layout that has it."""
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mmeffnet import VARIANTS, Arch, EfficientNet
from mmeffnet.weights.layouts import (
    LAYOUTS,
    LUKEMELAS,
    OURS,
    TIMM,
    TORCHVISION,
    conv_shapes,
    module_names,
    recognise,
)
from mmeffnet.weights.translate import numerics_of

WITH_SE = [f'b{i}' for i in range(9)] + ['l2']


@pytest.mark.parametrize('name', VARIANTS)
def test_names_and_shapes_are_those_of_our_network(name):
    with torch.device('meta'):
        state = EfficientNet(name).state_dict()
    arch = VARIANTS[name].arch
    assert set(module_names(arch, OURS)) == {key.rpartition('.')[0] for key in state}
    kernels = {key.removesuffix('.weight'): tuple(tensor.shape)
               for key, tensor in state.items() if tensor.ndim == 4}
    del kernels['layers.0.conv']  # its input channels are free
    assert conv_shapes(arch) == kernels


def renamed(name, layout):
    names = module_names(VARIANTS[name].arch, layout)
    return {f'{names[module]}.weight': shape
            for module, shape in conv_shapes(VARIANTS[name].arch).items()}


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_is_recognised_in_every_layout_that_has_it(name, layout):
    if layout is TORCHVISION and name not in WITH_SE:
        with pytest.raises(ValueError, match='torchvision has'):
            module_names(VARIANTS[name].arch, layout)
        return
    shapes = renamed(name, layout)
    assert recognise(shapes, layout) == (name, VARIANTS[name].arch)
    # Still so when a tensor is lost and another has the wrong shape.
    first, second, *_ = shapes
    assert recognise({**shapes, first: (1, 1, 1, 1), second: ()}, layout)[0] == name


@pytest.mark.parametrize('name', [f'b{number}' for number in range(8)])
def test_torchvisions_eps_is_known_for_each_variant(name):
    from torchvision import models
    with torch.device('meta'):
        judge = models.get_model(f'efficientnet_{name}')
    eps, = {layer.eps for layer in judge.modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert numerics_of('torchvision', name) == ('symmetric', eps)


def test_an_unknown_network_is_none_of_ours():
    shapes = renamed('b0', TIMM)
    assert recognise({}, TIMM) == (None, None)
    assert recognise(shapes, LUKEMELAS) == (None, None)
    # More blocks than B0 has: a longer network that starts like it.
    more = {f'blocks.6.{i}.conv_pw.weight': (1, 1, 1, 1) for i in range(1, 30)}
    assert recognise({**shapes, **more}, TIMM) == (None, None)


def test_an_architecture_of_the_users_is_recognised_where_it_is_given():
    arch = Arch(stem=8, head=16, stages=[dict(block='fused', kernel=3, stride=2, expand=2,
                                              channels=8, repeats=2, se_ratio=0.25)])
    shapes = {f'{key}.weight': shape for key, shape in conv_shapes(arch).items()}
    assert recognise(shapes, OURS) == (None, None)
    assert recognise(shapes, OURS, also=arch) == (None, arch)


@pytest.mark.parametrize('change', [
    dict(activation='ReLU'), dict(padding='symmetric'),
    dict(stages=[replace(stage, name=f'my{i}') for i, stage in
                 enumerate(VARIANTS['b0'].arch.stages)])], ids=lambda change: [*change][0])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=list(LAYOUTS))
def test_an_architecture_with_a_variants_kernels_goes_before_it(layout, change):
    edited = replace(VARIANTS['b0'].arch, **change)
    assert edited != VARIANTS['b0'].arch
    assert recognise(renamed('b0', layout), layout, also=edited) == ('b0', edited)
    # One of other kernels, though of most of the variant's, does not.
    wider = replace(edited, head=2048)
    assert recognise(renamed('b0', layout), layout, also=wider) == ('b0', VARIANTS['b0'].arch)


def test_the_tables_need_no_torch():
    done = subprocess.run(
        [sys.executable, '-c', 'import sys, mmeffnet.weights.layouts, mmeffnet.weights.catalog; '
         'sys.exit("torch" in sys.modules)'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
