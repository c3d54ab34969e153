"""Compound scaling: rounding, the formula against the table, and what scaling keeps."""
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TASK_UTILS
from peers import TINY

from mmeffnet import VARIANTS, Arch, ModelScaling
from mmeffnet.features import resolve_arch
from mmeffnet.scaling import round_channels, round_repeats
from mmeffnet.variants import EDGE, LITE, MBCONV

# Rounding.


@pytest.mark.parametrize(('wanted', 'channels'), [
    # 19.2 would go to 16 and lose a sixth; 8 is 0.909 of 8.8 and only 0.899 of 8.9.
    (19.2, 24), (17.6, 16), (8.8, 8), (8.9, 16), (28, 32), (27.9, 32), (3, 8), (0.1, 8),
    (100.8, 104), (384, 384)])
def test_width_becomes_a_multiple_of_eight_that_keeps_nine_tenths(wanted, channels):
    assert round_channels(wanted) == channels


def test_width_never_loses_more_than_a_tenth():
    assert all(round_channels(w) >= 0.9 * w and round_channels(w) % 8 == 0
               for w in range(1, 2000))


def test_divisor_and_limit_can_be_set():
    assert round_channels(19.2, divisor=4, round_limit=0.9) == 20
    assert round_channels(19.2, divisor=8, round_limit=0.8) == 16


@pytest.mark.parametrize(('wanted', 'divisor'), [(0, 8), (-16, 8), (16, 0)])
def test_width_that_is_not_positive_is_refused(wanted, divisor):
    with pytest.raises(ValueError, match=f'wanted={wanted} and divisor={divisor} must both be'):
        round_channels(wanted, divisor=divisor)


def test_25_times_2_2_is_55():
    # In floats the product is 55.00000000000001, and rounding up gives 56.
    assert math.ceil(25 * 2.2) == 56
    assert round_repeats(25, depth=2.2) == 55


@pytest.mark.parametrize(('repeats', 'depth', 'expected'), [
    (1, 1.1, 2), (4, 1.8, 8), (10, 1.1, 11), (3, 0.05, 1), (1, 1e-3, 1), (5, 1, 5)])
def test_repeats_are_rounded_up(repeats, depth, expected):
    assert round_repeats(repeats, depth=depth) == expected


@pytest.mark.parametrize(('repeats', 'depth'), [(0, 1.0), (2, 0.0), (2, -1.1)])
def test_repeats_that_are_not_positive_are_refused(repeats, depth):
    with pytest.raises(ValueError, match=f'repeats={repeats} and depth={depth} must both be'):
        round_repeats(repeats, depth=depth)


# The formula and the table.

def test_phi_of_seven_is_not_b7():
    formula, table = ModelScaling.from_phi(7), VARIANTS['b7'].scaling
    assert (round(formula.depth, 2), round(formula.width, 2), formula.resolution) == (
        3.58, 1.95, 596)
    assert (table.depth, table.width, table.resolution) == (3.1, 2.0, 600)


def test_phi_of_zero_changes_nothing():
    assert ModelScaling(phi=0).apply(MBCONV) == MBCONV


def test_phi_of_one_has_the_searched_coefficients():
    scaling = ModelScaling(phi=1)
    # 224 x 1.15 = 257.6.
    assert (scaling.depth, scaling.width, scaling.resolution) == (1.2, 1.1, 258)


def test_from_phi_is_the_same_as_phi():
    assert ModelScaling.from_phi(2, divisor=4) == ModelScaling(phi=2, divisor=4)


def test_own_coefficients_and_base_resolution_enter_the_formula():
    scaling = ModelScaling(phi=2, alpha=2.0, beta=3.0, gamma=1.5, base_resolution=32)
    assert (scaling.depth, scaling.width, scaling.resolution) == (4, 9, 72)


@pytest.mark.parametrize('given', ['width', 'depth', 'resolution'])
def test_phi_beside_a_factor_is_refused(given):
    with pytest.raises(ValueError, match=f'phi=1 sets .* together; remove {given} or remove phi'):
        ModelScaling(phi=1, **{given: 2})


@pytest.mark.parametrize('phi', [-1, math.inf, math.nan, '1', True, np.int64(-1)])
def test_phi_that_is_no_number_from_zero_is_refused(phi):
    message = f'phi={phi!r} must be a finite number of at least 0'
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelScaling(phi=phi)


@pytest.mark.parametrize('value', [0, -1.0, '2', True, math.nan])
@pytest.mark.parametrize('name', ['width', 'depth', 'resolution', 'divisor'])
def test_factor_that_is_not_above_zero_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r} must be a number above 0'):
        ModelScaling(**{name: value})


@pytest.mark.parametrize('name', ['width', 'depth', 'resolution', 'divisor'])
def test_infinite_factor_is_refused(name):
    with pytest.raises(ValueError, match=f'{name}=inf must be finite'):
        ModelScaling(**{name: math.inf})


@pytest.mark.parametrize(('name', 'value', 'rule'), [
    ('width', 101, 'at most 100'), ('depth', 1e9, 'at most 100'),
    ('resolution', 10**7, 'at most 1,000,000'), ('phi', 100, 'at most 100'),
    ('phi', 1e9, 'too large: width, depth and resolution grow beyond all numbers')])
def test_a_slip_of_the_pen_is_refused_and_not_built(name, value, rule):
    with pytest.raises(ValueError, match=rf'=\S+ (must be|is) {rule}$'):
        ModelScaling(**{name: value})


@pytest.mark.parametrize('name', ['alpha', 'beta', 'gamma', 'base_resolution'])
@pytest.mark.parametrize(('value', 'rule'), [
    (-1.2, 'a number above 0'), (True, 'a number above 0'), (math.inf, 'finite')])
def test_coefficient_of_the_formula_is_held_to_the_same_rules(name, value, rule):
    with pytest.raises(ValueError, match=f'^{name}={value!r} must be {rule}$'):
        ModelScaling(phi=2, **{name: value})


@pytest.mark.parametrize(('name', 'value'), [('resolution', 224.5), ('divisor', 8.5)])
def test_half_a_pixel_or_channel_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}={value} must be a whole number'):
        ModelScaling(**{name: value})


@pytest.mark.parametrize('kind', [float, np.int64, np.float64])
def test_whole_numbers_of_any_kind_are_whole_numbers(kind):
    scaling = ModelScaling(width=1.1, resolution=kind(240), divisor=kind(8))
    assert scaling == ModelScaling(width=1.1, resolution=240, divisor=8)
    assert (type(scaling.resolution), type(scaling.divisor)) == (int, int)
    assert scaling.apply(MBCONV).head == 1408  # 1280 x 1.1


@pytest.mark.parametrize('kind', [np.float16, np.float32, np.float64])
def test_factors_of_numpy_are_the_decimals_that_were_written(kind):
    scaling = ModelScaling(width=kind(1.2), depth=kind(2.2), round_limit=kind(0.9))
    assert scaling == ModelScaling(width=1.2, depth=2.2, round_limit=0.9)
    assert {type(value) for value in (scaling.width, scaling.depth, scaling.round_limit)} == {float}
    # float32's 2.2 is 2.2000000476837158, and times 25 it would round up to 56.
    assert round_repeats(25, scaling.depth) == 55


@pytest.mark.parametrize('kind', [np.int64, np.uint8, np.float32])
def test_phi_and_coefficients_of_numpy_are_numbers(kind):
    scaling = ModelScaling(phi=kind(2), alpha=kind(2), beta=kind(3), base_resolution=kind(32))
    assert scaling == ModelScaling(phi=2, alpha=2, beta=3, base_resolution=32)
    assert not isinstance(scaling.width, np.generic)


def test_a_fraction_stays_exact():
    # As a float it is 1.6666666666666667, and three times that is above 5.
    assert ModelScaling(depth=Fraction(5, 3)).apply(MBCONV).stages[3].repeats == 5


@pytest.mark.parametrize('limit', [0, 1.1, True, '0.9'])
def test_round_limit_outside_its_range_is_refused(limit):
    with pytest.raises(ValueError, match=f'round_limit={limit!r} must be above 0, at most 1'):
        ModelScaling(round_limit=limit)


# Scaling an architecture.

def test_narrow_scaling_keeps_every_stage():
    scaled = ModelScaling(width=0.05, depth=1.4).apply(MBCONV)
    assert [stage.channels for stage in scaled.stages] == [8, 8, 8, 8, 8, 16, 16]
    assert [stage.repeats for stage in scaled.stages] == [2, 3, 3, 5, 5, 6, 2]


@pytest.mark.parametrize('depth', [0.001, 0.3, 1.4, 7.5, 20])
@pytest.mark.parametrize('family', [MBCONV, EDGE, LITE], ids=['mbconv', 'edge', 'lite'])
def test_depth_never_repeats_a_strided_block_and_never_loses_a_stage(family, depth):
    scaled = ModelScaling(depth=depth).apply(family)
    strided = [block for group in scaled.blocks() for block in group if block.stride == 2]
    assert len(strided) == 4
    assert len(scaled.stages) == len(family.stages)
    assert scaled.out_strides == (2, 2, 4, 8, 16, 32, 32)


def test_scaling_leaves_the_original_as_it_is():
    before = MBCONV.to_dict()
    ModelScaling(width=2.0, depth=3.1).apply(MBCONV)
    assert MBCONV.to_dict() == before


def test_widths_that_are_no_multiple_of_eight_stay_without_scaling():
    arch = Arch.from_dict({**TINY, 'stem': 7, 'head': 33})
    assert ModelScaling(depth=2).apply(arch).out_channels == (7, 8, 12, 16, 24, 28, 33)


def test_squeeze_kernel_and_stride_are_not_scaled():
    scaled = ModelScaling(width=2.0, depth=3.1).apply(MBCONV)
    kept = [[(s.kernel, s.stride, s.expand, s.se_ratio) for s in arch.stages]
            for arch in (MBCONV, scaled)]
    assert kept[0] == kept[1]


def test_stem_and_head_are_scaled_or_not_as_told():
    ends = [(scaled.stem, scaled.head, scaled.stages[0].repeats, scaled.stages[-1].repeats)
            for scaled in (ModelScaling(width=2, depth=3, scale_stem_head=told).apply(MBCONV)
                           for told in (None, True, False))]
    assert ends == [(64, 2560, 3, 3), (64, 2560, 3, 3), (32, 1280, 1, 1)]


def test_lite_can_be_told_to_scale_its_ends():
    scaled = ModelScaling(width=2, depth=3, scale_stem_head=True).apply(LITE)
    assert (scaled.stem, scaled.head) == (64, 2560)


def test_width_that_expansion_is_counted_from_is_scaled_too():
    assert ModelScaling(width=1.2).apply(EDGE).stages[0].expand_from == 32


# Configs.

@pytest.mark.parametrize(('config', 'scaling'), [
    (dict(width=2.0, depth=3.1, resolution=600), ModelScaling(width=2., depth=3.1, resolution=600)),
    (dict(phi=1.5), ModelScaling.from_phi(1.5))], ids=['coefficients', 'phi'])
def test_scaling_is_built_from_a_config_by_its_prefix(config, scaling):
    assert TASK_UTILS.build(dict(type='mmeffnet.ModelScaling', **config)) == scaling


def test_misspelt_argument_is_refused_when_built():
    with pytest.raises(TypeError, match='widht'):
        TASK_UTILS.build(dict(type='mmeffnet.ModelScaling', widht=2.0))


@pytest.mark.parametrize('arch', ['b0', MBCONV.to_dict(), MBCONV], ids=['name', 'dict', 'Arch'])
def test_config_scales_a_base_however_it_is_given(arch):
    config = Config(dict(scaling=dict(type='mmeffnet.ModelScaling', width=2.0, depth=3.1)))
    assert resolve_arch(arch, config.scaling) == VARIANTS['b7'].arch
