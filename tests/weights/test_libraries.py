"""Files that other libraries write are read as they are, and give what those libraries give.

In float64, with calibrated random weights; a wrong name, pad, eps or activation anywhere shows
as 1e-3 or more, rounding as some 1e-14.
"""
import peers
import pytest
import torch
from torch import nn

from mmeffnet import EfficientNet
from mmeffnet.engine.checkpoint import load_whole
from mmeffnet.registry import MODELS

SIZES = ((64, 64), (65, 65), (63, 66))
CLASSES = 7


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def timm(name):
    library = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    network = library.create_model(name, num_classes=CLASSES, drop_rate=0.)
    return network, network.forward_features


def torchvision(name):
    from torchvision import models
    network = models.get_model(name, num_classes=CLASSES)
    return network, network.features


def lukemelas(package, name):
    library = pytest.importorskip(package, reason=f'{package} is a judge, and not installed')
    # With image_size=None it pads by the size of the input, as TensorFlow does.
    network = library.EfficientNet.from_name(name, num_classes=CLASSES, image_size=None)
    return network, network.extract_features


def mmpretrain(name):
    # Its EdgeTPU networks have Swish unless its configs say ReLU.
    activation = dict(act_cfg=dict(type='ReLU')) if name == 'es' else {}
    network = MODELS.build(dict(
        type='mmpretrain.ImageClassifier', neck=dict(type='mmpretrain.GlobalAveragePooling'),
        backbone=dict(type='mmpretrain.EfficientNet', arch=name, **activation),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=1280)))
    return network, lambda image: network.extract_feat(image, stage='backbone')[-1]


SYMMETRIC = dict(conv_cfg=dict(type='Conv2d'))
PLAIN_TORCH = dict(**SYMMETRIC, norm_cfg=dict(type='BN', eps=1e-5))
CASES = {
    'timm tf_b0': ('b0', {}, lambda: timm('tf_efficientnet_b0')),
    'timm b0': ('b0', PLAIN_TORCH, lambda: timm('efficientnet_b0')),
    'timm tf_es': ('es', {}, lambda: timm('tf_efficientnet_es')),
    'timm tf_lite0': ('lite0', {}, lambda: timm('tf_efficientnet_lite0')),
    'torchvision b0': ('b0', PLAIN_TORCH, lambda: torchvision('efficientnet_b0')),
    'torchvision b5': ('b5', SYMMETRIC, lambda: torchvision('efficientnet_b5')),
    'lukemelas b1': ('b1', {}, lambda: lukemelas('efficientnet_pytorch', 'efficientnet-b1')),
    'lukemelas lite0': ('lite0', {}, lambda: lukemelas('efficientnet_lite_pytorch',
                                                       'efficientnet-lite0')),
    'mmpretrain b0': ('b0', {}, lambda: mmpretrain('b0')),
    'mmpretrain es': ('es', {}, lambda: mmpretrain('es')),
}


def classifier(name, options, **head):
    return MODELS.build(dict(
        type='mmpretrain.ImageClassifier', neck=dict(type='mmpretrain.GlobalAveragePooling'),
        backbone=dict(type='mmeffnet.EfficientNet', arch=name, **options),
        head=dict(type='mmeffnet.EfficientNetHead', num_classes=CLASSES, arch=name, **head)))


def logits(model, image):
    return model.head(model.extract_feat(image)) if hasattr(model, 'extract_feat') else model(image)


@pytest.mark.parametrize('case', CASES)
def test_a_file_gives_the_outputs_of_its_own_library(case, tmp_path):
    name, options, make = CASES[case]
    torch.manual_seed(0)
    judge, features = make()
    peers.calibrated(nn.Sequential(Features(judge, features)))
    judge.eval()
    path = tmp_path / 'theirs.pth'
    torch.save(dict(state_dict=judge.state_dict()), path)

    backbone = EfficientNet(name, **options,
                            init_cfg=dict(type='Pretrained', checkpoint=str(path))).double()
    backbone.init_weights()
    whole = classifier(name, options).double()
    load_whole(path, whole)
    backbone.eval()
    whole.eval()
    with torch.no_grad():
        for height, width in SIZES[-1:] if name == 'b5' else SIZES:
            image = peers.images(height, width)
            expected = features(image)
            assert peers.relative_difference(backbone(image)[-1], expected) < 1e-10
            expected = logits(judge, image)
            assert expected.std() > 1e-3  # so that the comparison means something
            assert peers.relative_difference(logits(whole, image), expected) < 1e-10


class Features(nn.Module):
    """A network as the function from image to features, for the calibration."""

    def __init__(self, network, features):
        super().__init__()
        self.network, self.features = network, features

    def forward(self, image):
        return self.features(image)


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
def test_a_whole_classifier_of_ours_gives_a_backbone_its_part(prefix, tmp_path):
    source = classifier('lite0', {})
    torch.save(dict(state_dict=source.state_dict(), meta=dict(epoch=1)), tmp_path / 'ours.pth')
    backbone = EfficientNet('lite0', init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'),
        **({} if prefix is None else dict(prefix=prefix))))
    backbone.init_weights()
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_safetensors_load_by_init_cfg(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason='safetensors is not installed')
    network, _ = timm('tf_efficientnet_lite0')
    safetensors.save_file(network.state_dict(), tmp_path / 'model.safetensors')
    backbone = EfficientNet('lite0', init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'model.safetensors'), prefix='backbone.'))
    backbone.init_weights()
    assert torch.equal(backbone.layers[0].conv.weight, network.conv_stem.weight)


def test_a_backbone_of_timm_in_mmpretrain_keeps_its_classifier(tmp_path):
    pytest.importorskip('timm', reason='timm is a judge, and not installed')
    torch.manual_seed(0)
    judge = MODELS.build(dict(
        type='mmpretrain.ImageClassifier', neck=dict(type='mmpretrain.GlobalAveragePooling'),
        backbone=dict(type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_b0'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=1280)))
    peers.calibrated(nn.Sequential(Features(
        judge, lambda image: judge.extract_feat(image, stage='backbone')[-1])))
    judge.eval()
    torch.save(dict(state_dict=judge.state_dict()), tmp_path / 'theirs.pth')
    whole = classifier('b0', {}).double()
    load_whole(tmp_path / 'theirs.pth', whole)
    whole.eval()
    image = peers.images(*SIZES[-1])
    with torch.no_grad():
        expected = logits(judge, image)
        assert expected.std() > 1e-3
        assert peers.relative_difference(logits(whole, image), expected) < 1e-10
