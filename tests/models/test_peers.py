"""Our networks give what other implementations give, with the same weights in float64.

Rounding differs by some 1e-14 in all; a wrong pad, eps, order or activation anywhere shows
as 1e-3 or more.
"""
from functools import lru_cache

import peers
import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet

# l2 is compared on the meta device below: it has 480 million parameters.
NAMES = [name for name in VARIANTS if name != 'l2']
B0_TO_B7 = [f'b{i}' for i in range(8)]
SYMMETRIC = dict(type='Conv2d')

# Even sizes pad lopsidedly at every stride, odd ones evenly. 63x66 pads the height evenly
# (63, 32, 16, ... starts odd) and the width not; 64x97 the other way round.
SIZES = ((64, 64), (65, 65), (64, 97), (63, 66))
SIZES_OF_BIG = ((63, 66), )  # has both kinds of pad on both axes: 63, 32, 16 and 66, 33, 17


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    # At 64 px threads gain nothing, and on a busy machine they wait minutes for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def calibrated_state(name):
    """Weights that suit ``name``; kept for the next case, which mostly has the same name."""
    torch.manual_seed(0)
    return peers.calibrated(EfficientNet(arch=name)).state_dict()


def ours(name, **options):
    with torch.device('meta'):  # no time is spent on initial weights
        network = EfficientNet(arch=name, **options)
    network.load_state_dict(calibrated_state(name), strict=True, assign=True)
    return network.eval()


def sizes_for(name, judge):
    if name in ('b0', 'es', 'lite0'):
        return (*SIZES, (224, 224))
    big = judge is not timm_same and name in ('b4', 'b5', 'b6', 'b7', 'b8')
    return SIZES_OF_BIG if big else SIZES


def load(peer, name, layout):
    peers.load_translated(peer, calibrated_state(name), name, layout)
    return peer.eval()


def timm_network(name, prefix, **options):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    with torch.device('meta'):
        return timm.create_model(f'{prefix}efficientnet_{name}', pretrained=False, **options)


# Each judge: a variant -> its features and the arguments that make ours the same network.

def timm_same(name):
    return load(timm_network(name, 'tf_'), name, peers.TIMM).forward_features, {}


def timm_symmetric(name):
    # The networks that timm trained by itself keep PyTorch's eps.
    options = dict(conv_cfg=SYMMETRIC, norm_cfg=dict(type='BN', eps=1e-5))
    return load(timm_network(name, ''), name, peers.TIMM).forward_features, options


def torchvision_symmetric(name):
    models = pytest.importorskip('torchvision.models', reason='torchvision is a judge')
    with torch.device('meta'):
        peer = getattr(models, f'efficientnet_{name}')(weights=None)
    # Its B5 to B7 carry converted TensorFlow weights and their eps, the others PyTorch's.
    eps = 1e-3 if name in ('b5', 'b6', 'b7') else 1e-5
    options = dict(conv_cfg=SYMMETRIC, norm_cfg=dict(type='BN', eps=eps))
    return load(peer, name, peers.TORCHVISION).features, options


def lukemelas_same(name):
    package = pytest.importorskip('efficientnet_pytorch', reason='a judge, and not installed')
    # Without an image size its padding follows each input, as ours does.
    with torch.device('meta'):
        peer = package.EfficientNet.from_name(f'efficientnet-{name}', image_size=None)
    return load(peer, name, peers.LUKEMELAS).extract_features, {}


def mmpretrain_network(name, **options):
    from mmpretrain.models import EfficientNet as Theirs
    if name.startswith('e'):
        # Its EdgeTPU networks have Swish by default, where the published ones have ReLU.
        options['act_cfg'] = dict(type='ReLU')
    return Theirs(arch=name, **options)


def mmpretrain_same(name):
    peer = mmpretrain_network(name)
    peer.load_state_dict(calibrated_state(name), strict=True, assign=True)
    peer.eval()
    return lambda image: peer(image)[-1], {}


# No 'el' from mmpretrain, which builds it 120 channels wide in place of 128.
MMPRETRAIN = [*(f'b{i}' for i in range(9)), 'es', 'em']
JUDGES = [(timm_same, NAMES), (timm_symmetric, NAMES), (torchvision_symmetric, B0_TO_B7),
          (lukemelas_same, B0_TO_B7), (mmpretrain_same, MMPRETRAIN)]


@pytest.mark.parametrize(('name', 'judge'), [
    pytest.param(name, judge, id=f'{name}-{judge.__name__}',
                 marks=[pytest.mark.slow] * (name in ('b6', 'b7', 'b8')))
    for name in NAMES for judge, names in JUDGES if name in names])
def test_features_are_those_of_the_judge(name, judge):
    features, options = judge(name)
    network = ours(name, **options)
    for height, width in sizes_for(name, judge):
        image = peers.images(height, width)
        with torch.no_grad():
            (actual, ), expected = network(image), features(image)
        assert actual.shape == expected.shape
        assert peers.relative_difference(actual, expected) < 1e-9, f'at {height}x{width}'


@pytest.mark.parametrize('name', ['b0', 'b3', 'es', 'lite0'])
@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('padding', ['tf_', ''])
def test_dilated_features_are_those_of_timm(name, output_stride, padding):
    # 57 is odd at every stride traded, 64 even, and neither is a multiple of the dilations.
    peer = load(timm_network(name, padding, output_stride=output_stride), name, peers.TIMM)
    options = {} if padding else dict(conv_cfg=SYMMETRIC, norm_cfg=dict(type='BN', eps=1e-5))
    image = peers.images(57, 64)
    with torch.no_grad():
        (actual, ) = ours(name, output_stride=output_stride, **options)(image)
        expected = peer.forward_features(image)
    assert actual.shape == expected.shape
    assert peers.relative_difference(actual, expected) < 1e-9


@pytest.mark.parametrize('name', MMPRETRAIN)
def test_every_tensor_of_mmpretrain_has_its_place_in_ours(name):
    theirs = mmpretrain_network(name).state_dict()
    with torch.device('meta'):
        network = EfficientNet(arch=name)
    network.load_state_dict(theirs, strict=True, assign=True)
    # The order too: an optimizer's state is stored by position.
    assert list(network.state_dict()) == list(theirs)


def test_every_output_of_mmpretrain_is_ours():
    every = tuple(range(7))
    peer = mmpretrain_network('b0', out_indices=every)
    peer.load_state_dict(calibrated_state('b0'), strict=True, assign=True)
    peer.eval()
    image = peers.images(63, 66)
    with torch.no_grad():
        pairs = list(zip(ours('b0', out_indices=every)(image), peer(image), strict=True))
    assert max(peers.relative_difference(*pair) for pair in pairs) < 1e-9


def test_l2_has_the_tensors_of_timm():
    peer = timm_network('l2', 'tf_')
    with torch.device('meta'):
        state = EfficientNet(arch='l2').state_dict()
    theirs = peers.without_classifier(peer.state_dict(), peers.TIMM)
    translated = peers.translate(state, 'l2', peers.TIMM)
    assert ({key: value.shape for key, value in translated.items()}
            == {key: value.shape for key, value in theirs.items()})


def test_padding_decides_the_features_on_even_sizes():
    image = peers.images(64, 64)
    with torch.no_grad():
        (same, ), (symmetric, ) = ours('b0')(image), ours('b0', conv_cfg=SYMMETRIC)(image)
    # Otherwise the comparisons above could not tell one padding from the other.
    assert peers.relative_difference(symmetric, same) > 1e-2


def test_padding_makes_no_difference_on_sizes_that_stay_odd():
    # 65 -> 33 -> 17 -> 9 -> 5 -> 3: every strided layer meets an odd size.
    image = peers.images(65, 65)
    with torch.no_grad():
        (same, ), (symmetric, ) = ours('b0')(image), ours('b0', conv_cfg=SYMMETRIC)(image)
    assert peers.relative_difference(symmetric, same) < 1e-9
