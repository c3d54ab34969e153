"""The eighteen published networks, against numbers that other implementations give."""
import subprocess
import sys
from functools import cache

import peers
import pytest
import torch

from mmeffnet import VARIANTS, ModelScaling, get_variant
from mmeffnet.variants import EDGE, HALF_NORM, IMAGENET_NORM, LITE, MBCONV, variant_of

# Parameters with 1000 classes, elements of BatchNorm statistics (running mean and variance),
# and multiply-adds of convolutions and classifier at the variant's own resolution. Computed
# with timm 1.0.31 `tf_efficientnet_*` and torchvision 0.29.1, which agree.
COUNTS = {
    'b0': (224, 0.2, 5_288_548, 42_016, 385_814_752),
    'b1': (240, 0.2, 7_794_184, 62_048, 686_802_832),
    'b2': (260, 0.3, 9_109_994, 67_568, 993_561_872),
    'b3': (300, 0.3, 12_233_232, 87_296, 1_827_141_392),
    'b4': (380, 0.4, 19_341_616, 125_200, 4_393_771_024),
    'b5': (456, 0.4, 30_389_784, 172_736, 10_266_384_752),
    'b6': (528, 0.5, 43_040_704, 224_432, 19_067_593_536),
    'b7': (600, 0.5, 66_347_960, 310_720, 37_745_884_192),
    'b8': (672, 0.5, 87_413_142, 380_032, 62_597_461_568),
    'l2': (800, 0.5, 480_309_308, 1_090_688, 475_703_653_280),
    'es': (224, 0.2, 5_438_392, 51_440, 1_788_731_008),
    'em': (240, 0.2, 6_899_496, 67_808, 3_013_321_088),
    'el': (300, 0.3, 10_589_712, 92_208, 7_936_082_848),
    'lite0': (224, 0.2, 4_652_008, 42_016, 385_187_552),
    'lite1': (240, 0.2, 5_416_680, 53_664, 600_185_232),
    'lite2': (260, 0.3, 6_092_072, 58_096, 859_736_272),
    'lite3': (280, 0.3, 8_197_096, 76_672, 1_383_321_872),
    'lite4': (300, 0.3, 13_006_568, 112_368, 2_553_034_336),
}

# Stem, stages, head; repeats; blocks in all. From the same networks.
WIDTHS = {
    'b0': ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (1, 2, 2, 3, 3, 4, 1), 16),
    'b1': ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (2, 3, 3, 4, 4, 5, 2), 23),
    'b2': ((32, 16, 24, 48, 88, 120, 208, 352, 1408), (2, 3, 3, 4, 4, 5, 2), 23),
    'b3': ((40, 24, 32, 48, 96, 136, 232, 384, 1536), (2, 3, 3, 5, 5, 6, 2), 26),
    'b4': ((48, 24, 32, 56, 112, 160, 272, 448, 1792), (2, 4, 4, 6, 6, 8, 2), 32),
    'b5': ((48, 24, 40, 64, 128, 176, 304, 512, 2048), (3, 5, 5, 7, 7, 9, 3), 39),
    'b6': ((56, 32, 40, 72, 144, 200, 344, 576, 2304), (3, 6, 6, 8, 8, 11, 3), 45),
    'b7': ((64, 32, 48, 80, 160, 224, 384, 640, 2560), (4, 7, 7, 10, 10, 13, 4), 55),
    'b8': ((72, 32, 56, 88, 176, 248, 424, 704, 2816), (4, 8, 8, 11, 11, 15, 4), 61),
    'l2': ((136, 72, 104, 176, 344, 480, 824, 1376, 5504), (6, 11, 11, 16, 16, 22, 6), 88),
}

# Counting changes nothing, so each network is built once.
whole_network = cache(peers.whole_network)


def conv_widths(network):
    """Output widths of stem, stages and head, and repeats, read from the built layers."""
    stem, *groups, head = network[0].layers
    channels = [block.linear_conv.conv.out_channels for group in groups for block in group]
    # Neighbouring stages always differ in width, so a run of one width is one stage.
    runs = [[channels[0], 0]]
    for width in channels:
        if width != runs[-1][0]:
            runs.append([width, 0])
        runs[-1][1] += 1
    widths = (stem.conv.out_channels, *(width for width, _ in runs), head.conv.out_channels)
    return widths, tuple(count for _, count in runs), len(channels)


def test_there_are_eighteen_variants():
    assert VARIANTS.keys() == COUNTS.keys()


@pytest.mark.parametrize('name', COUNTS)
def test_built_network_has_the_published_parameters(name):
    network = whole_network(name)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name][2]


@pytest.mark.parametrize('name', COUNTS)
def test_built_network_has_the_published_batch_norm_statistics(name):
    buffers = whole_network(name).named_buffers()
    assert sum(b.numel() for key, b in buffers if 'running' in key) == COUNTS[name][3]


@pytest.mark.parametrize('name', COUNTS)
def test_built_network_costs_the_published_multiply_adds(name):
    resolution, *_, expected = COUNTS[name]
    assert peers.multiply_adds(whole_network(name), resolution) == expected


@pytest.mark.parametrize('name', COUNTS)
def test_resolution_and_dropout_are_the_published_ones(name):
    variant = VARIANTS[name]
    assert (variant.resolution, variant.dropout) == COUNTS[name][:2]


@pytest.mark.parametrize('name', WIDTHS)
def test_built_network_has_the_published_widths_and_repeats(name):
    assert conv_widths(whole_network(name)) == WIDTHS[name]


@pytest.mark.parametrize('name', WIDTHS)
def test_described_widths_are_those_of_the_built_network(name):
    arch = VARIANTS[name].arch
    widths = (arch.stem, *(stage.channels for stage in arch.stages), arch.head)
    repeats = tuple(stage.repeats for stage in arch.stages)
    assert (widths, repeats, sum(repeats)) == conv_widths(whole_network(name))


def test_b2_differs_from_b1_in_width_and_not_in_repeats():
    b1, b2 = VARIANTS['b1'].arch.stages, VARIANTS['b2'].arch.stages
    assert [s.repeats for s in b1] == [s.repeats for s in b2]
    assert (b1[2].channels, b2[2].channels) == (40, 48)


def test_edge_tpu_large_expands_its_first_stage_from_32_channels():
    # 4 x round(24 x 1.2) = 128; counted from the 40 channels of the stem it would be 160.
    first, *_ = VARIANTS['el'].arch.blocks()[0]
    assert first.hidden == 128


@pytest.mark.parametrize('name', ['lite0', 'lite4'])
def test_lite_keeps_the_stem_and_the_head(name):
    arch = VARIANTS[name].arch
    assert (arch.stem, arch.head) == (32, 1280)


def test_lite_keeps_the_repeats_of_the_first_and_last_stage():
    repeats = [stage.repeats for stage in VARIANTS['lite4'].arch.stages]
    # 1.8 times 1 2 2 3 3 4 1, rounded up, but for both ends.
    assert repeats == [1, 4, 4, 6, 6, 8, 1]


def test_input_norm_is_imagenet_for_mbconv_and_half_for_edge_and_lite():
    norms = {name: variant.norm for name, variant in VARIANTS.items()}
    half = {name for name, norm in norms.items() if norm == HALF_NORM}
    assert half == {'es', 'em', 'el', 'lite0', 'lite1', 'lite2', 'lite3', 'lite4'}
    assert all(norms[name] == IMAGENET_NORM for name in norms.keys() - half)


@pytest.mark.parametrize(('family', 'members'), [
    (MBCONV, 'b0 b1 b2 b3 b4 b5 b6 b7 b8 l2'), (EDGE, 'es em el'),
    (LITE, 'lite0 lite1 lite2 lite3 lite4')])
def test_members_scale_their_own_family(family, members):
    assert ' '.join(n for n, v in VARIANTS.items() if v.family == family) == members


@pytest.mark.parametrize(('asked', 'near'), [('b-3', 'b3'), ('lite_4', 'lite4')])
def test_unknown_variant_is_refused_naming_the_nearest(asked, near):
    with pytest.raises(ValueError, match=f"arch='{asked}' is not a variant.*did you mean '{near}"):
        get_variant(asked)


def test_unknown_variant_is_refused_listing_all():
    with pytest.raises(ValueError, match=', '.join(VARIANTS)):
        get_variant('resnet50')


def test_a_variant_that_cannot_be_a_key_is_refused_too():
    with pytest.raises(ValueError, match=r"arch=\['b0'\] is not a variant"):
        get_variant(['b0'])


def test_variant_is_recognised_from_its_architecture():
    assert [variant_of(variant.arch) for variant in VARIANTS.values()] == list(VARIANTS)


def test_other_architecture_is_no_variant():
    assert variant_of(ModelScaling(width=1.3).apply(MBCONV)) is None


def test_counting_needs_no_memory():
    assert {p.device for p in whole_network('l2').parameters()} == {torch.device('meta')}


def test_data_modules_load_no_torch():
    code = ('import sys, mmeffnet, mmeffnet.arch, mmeffnet.scaling, mmeffnet.variants\n'
            'print(mmeffnet.VARIANTS["b7"].arch)\n'
            'assert "torch" not in sys.modules, "torch is loaded"')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
