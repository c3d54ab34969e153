"""What holds for every architecture and every scaling, and not only for the published ones."""
from dataclasses import replace
from fractions import Fraction

import pytest

from mmeffnet import Arch, ModelScaling, Stage
from mmeffnet.analysis.complexity import complexity
from mmeffnet.scaling import round_channels, round_repeats
from mmeffnet.variants import EDGE, LITE, MBCONV

hypothesis = pytest.importorskip('hypothesis', reason='pip install hypothesis')
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
COSTS = ('parameters', 'multiply_adds', 'activations')


def written(low, high, digits=3):
    """Factors as people write them: decimals with few digits."""
    return st.integers(round(low * 10**digits), round(high * 10**digits)).map(
        lambda number: number / 10**digits)


WIDTHS = st.integers(1, 12).map(lambda eighths: 8 * eighths)
STAGES = st.builds(
    Stage, name=st.just(''), block=st.sampled_from(['mbconv', 'fused']),
    kernel=st.sampled_from([3, 5, 7]), stride=st.sampled_from([1, 2]),
    expand=st.sampled_from([1, 1.5, 4, 6]), channels=WIDTHS, repeats=st.integers(1, 5),
    se_ratio=st.sampled_from([0, 0.25, 0.5]), skip=st.booleans())
ARCHS = st.builds(
    lambda stages, **rest: Arch(
        stages=tuple(replace(s, name=f's{i}') for i, s in enumerate(stages)), **rest),
    stages=st.lists(STAGES, min_size=1, max_size=5), stem=WIDTHS, head=WIDTHS,
    activation=st.sampled_from(['SiLU', 'ReLU6']), padding=st.sampled_from(['same', 'symmetric']),
    scale_stem_head=st.booleans())
SCALINGS = st.builds(ModelScaling, width=written(0.05, 6), depth=written(0.01, 6),
                     resolution=st.integers(1, 900), divisor=st.sampled_from([1, 4, 8, 16]),
                     round_limit=written(0.5, 1), scale_stem_head=st.sampled_from(
                         [None, True, False]))


@QUICK
@given(wanted=written(0.01, 5000), divisor=st.integers(1, 64), limit=written(0.01, 1))
def test_a_width_is_a_multiple_that_keeps_its_share_and_gains_less_than_the_divisor(
        wanted, divisor, limit):
    width = round_channels(wanted, divisor, limit)
    assert width % divisor == 0
    assert width >= Fraction(str(limit)) * Fraction(str(wanted))
    assert width < Fraction(str(wanted)) + divisor


@QUICK
@given(wanted=st.tuples(written(0.01, 500), written(0.01, 500)), divisor=st.integers(1, 64))
def test_a_larger_width_is_never_rounded_to_a_smaller_one(wanted, divisor):
    less, more = sorted(wanted)
    assert round_channels(less, divisor) <= round_channels(more, divisor)


@QUICK
@given(repeats=st.integers(1, 200), depth=written(0.001, 20))
def test_repeats_gain_less_than_one_block_and_lose_none(repeats, depth):
    exact = repeats * Fraction(str(depth))
    assert exact <= round_repeats(repeats, depth) < exact + 1


@QUICK
@given(arch=ARCHS, scaling=SCALINGS)
def test_scaling_loses_no_stage_and_changes_no_stride(arch, scaling):
    scaled = scaling.apply(arch)
    assert [s.name for s in scaled.stages] == [s.name for s in arch.stages]
    assert all(s.repeats >= 1 and s.channels >= 1 for s in scaled.stages)
    assert scaled.out_strides == arch.out_strides
    assert len(scaled.out_channels) == len(arch.out_channels)


@QUICK
@given(arch=ARCHS, scaling=SCALINGS)
def test_every_scaled_width_is_divisible(arch, scaling):
    scaled = scaling.apply(arch)
    if scaling.width != 1:
        assert all(s.channels % scaling.divisor == 0 for s in scaled.stages)


@QUICK
@given(arch=ARCHS, scaling=SCALINGS)
def test_scaling_by_one_changes_nothing_before_or_after(arch, scaling):
    assert ModelScaling(width=1.0, depth=1.0).apply(arch) == arch
    scaled = scaling.apply(arch)
    assert ModelScaling().apply(scaled) == scaled


@pytest.mark.parametrize('coefficient', ['width', 'depth', 'resolution'])
@QUICK
@given(arch=ARCHS, scaling=SCALINGS, factor=written(1, 4, digits=2))
def test_no_cost_falls_when_one_coefficient_grows(coefficient, arch, scaling, factor):
    scaling = replace(scaling, divisor=8)  # all widths here are multiples of 8
    value = getattr(scaling, coefficient)
    larger = round(value * factor, 3) if coefficient != 'resolution' else round(value * factor)
    more = replace(scaling, **{coefficient: larger})
    before, after = (complexity(s.apply(arch), s.resolution) for s in (scaling, more))
    for name in COSTS:
        assert getattr(before, name) <= getattr(after, name)


@QUICK
@given(arch=ARCHS)
def test_an_architecture_survives_a_config_and_its_printed_form(arch):
    from mmengine.config import Config
    assert Arch.from_dict(arch.to_dict()) == arch
    text = Config(dict(arch=arch.to_dict())).dump()
    assert Arch.from_dict(Config.fromstring(text, '.py').arch) == arch
    assert eval(repr(arch)) == arch
    rows = [line.split() for line in str(arch).splitlines()[2:-2]]
    assert [(r[0], r[1], *map(float, r[2:7])) for r in rows] == [
        (s.name, s.block, s.kernel, s.stride, s.expand, s.channels, s.repeats)
        for s in arch.stages]


@QUICK
@given(scaling=SCALINGS)
def test_a_scaling_survives_its_printed_form(scaling):
    assert eval(repr(scaling)) == scaling


# The formula: what rounding may add or take, worked out for every layer by itself.

def real_cost(arch, width, repeats, side, squeeze):
    """Multiply-adds with real widths, repeats and sides, for stages of mbconv blocks."""
    stride, channels = 2, width(arch.stem)
    total = 27 * channels * side(stride) ** 2
    for stage in arch.stages:
        for index, count in enumerate((1, repeats(stage.repeats) - 1)):
            area = side(stride) ** 2
            stride *= stage.stride if index == 0 else 1
            hidden, out = channels * stage.expand, width(stage.channels)
            cost = (channels * hidden * area if stage.expand != 1 else 0) + side(stride) ** 2 * (
                stage.kernel ** 2 * hidden + hidden * out)
            cost += 2 * hidden * squeeze(channels * stage.se_ratio)
            total += count * cost
            channels = out
    return total + channels * width(arch.head) * side(stride) ** 2 + width(arch.head) * 1000


PHIS = written(0, 10, digits=2)


@QUICK
@given(phi=PHIS)
def test_formula_stays_within_the_bounds_of_its_roundings(phi):
    w, d, r = 1.1 ** phi, 1.2 ** phi, 224 * 1.15 ** phi
    lower = real_cost(MBCONV, lambda c: max(0.9 * w * c, w * c - 4), lambda n: d * n,
                      lambda s: (r - 0.5) / s, lambda q: max(1, q - 1))
    upper = real_cost(MBCONV, lambda c: w * c + 8, lambda n: d * n + 1,
                      lambda s: (r + 0.5) / s + 1, lambda q: max(1, q))
    assert lower <= complexity('b0', scaling=ModelScaling.from_phi(phi)).multiply_adds <= upper


def growth(phi, arch='b0'):
    ratio = (complexity(arch, scaling=ModelScaling.from_phi(phi)).multiply_adds
             / complexity(arch).multiply_adds)
    return ratio / (1.2 * 1.1**2 * 1.15**2) ** phi


def test_cost_of_b0_follows_the_formula_within_what_the_docstring_says():
    # Every tenth: the steps in between are those of some width, repeat or side.
    found = {phi / 10: growth(phi / 10) for phi in range(101)}
    found[0.02] = growth(0.02)  # just above 0 every stage has one block more
    assert min(found.values()) > 0.96
    assert 1.70 < max(found.values()) < 1.72
    assert max(value for phi, value in found.items() if phi >= 1) < 1.48
    assert max(value for phi, value in found.items() if phi >= 4) < 1.24
    doc = ModelScaling.from_phi.__doc__
    assert '0.96 to 1.72 times 1.92**phi' in doc.replace('\n', ' ')


@pytest.mark.parametrize('family', [MBCONV, EDGE, LITE], ids=['mbconv', 'edge', 'lite'])
@QUICK
@given(phis=st.tuples(PHIS, PHIS))
def test_a_larger_phi_never_costs_less(family, phis):
    few, many = (ModelScaling.from_phi(phi) for phi in sorted(phis))
    before, after = (complexity(s.apply(family), s.resolution) for s in (few, many))
    for name in COSTS:
        assert getattr(before, name) <= getattr(after, name)
