"""Predictions from Python, and what is refused before a network is run."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from PIL import Image

from mmeffnet import EfficientNet, EfficientNetHead
from mmeffnet.errors import InputError
from mmeffnet.inference import network
from mmeffnet.inference.images import ImageError
from mmeffnet.inference.network import Classifier, build_network, class_names, find_class, title_of
from mmeffnet.inference.predictor import Prediction, Predictor, predict
from mmeffnet.weights import Weights


def random_weights(variant='lite0', classes=7):
    """Weights that nobody trained, as ``load_weights`` gives them."""
    torch.manual_seed(0)
    model = Classifier(EfficientNet(arch=variant),
                       EfficientNetHead(num_classes=classes, arch=variant))
    model.head.init_weights()
    return Weights(state=model.state_dict(), layout='mmeffnet', source='random weights',
                   variant=variant)


def without(weights, part):
    return replace(weights, state={key: tensor for key, tensor in weights.state.items()
                                   if part not in key})


@pytest.fixture(scope='module')
def predictor():
    return Predictor(random_weights(), device='cpu', batch_size=2)


def colour(value):
    return Image.new('RGB', (40, 30), value)


def test_one_picture_gives_the_best_classes_first(predictor):
    found = predictor(colour('red'), topk=3)
    assert len(found) == 3
    assert all(isinstance(one, Prediction) for one in found)
    assert [one.name for one in found] == [f'class {one.index}' for one in found]
    shares = [one.probability for one in found]
    assert shares == sorted(shares, reverse=True)


def test_probabilities_of_all_classes_sum_to_one(predictor):
    found = predictor(colour('red'), topk=99)
    assert len(found) == 7
    assert sum(one.probability for one in found) == pytest.approx(1)


def test_several_pictures_give_a_list_each_whatever_the_batch(predictor, tmp_path):
    colour('green').save(tmp_path / 'a.png')
    pictures = [colour('red'), str(tmp_path / 'a.png'), np.asarray(colour('blue'))]
    together = predictor(pictures)
    for picture, found in zip(pictures, together, strict=True):
        alone = predictor(picture)
        assert [one.index for one in alone] == [one.index for one in found]
        assert [one.probability for one in alone] == pytest.approx(
            [one.probability for one in found], abs=1e-5)


def test_a_network_is_that_of_its_weights(predictor):
    weights = random_weights()
    backbone = EfficientNet(arch='lite0')
    head = EfficientNetHead(num_classes=7, arch='lite0')
    model = Classifier(backbone, head).eval()
    model.load_state_dict(weights.state)
    tensor = predictor.network.settings.tensor(colour('teal'))
    with torch.no_grad():
        expected = model(tensor[None]).softmax(1)
    torch.testing.assert_close(predictor.probabilities([tensor]), expected, rtol=0, atol=1e-5)


def test_padding_and_epsilon_are_those_of_the_weights():
    layers = build_network(replace(random_weights('b0'), layout='torchvision'),
                           device='cpu').model.backbone.layers
    assert (type(layers[0].conv).__name__, layers[0].bn.eps) == ('Conv2d', 1e-5)
    layers = build_network(random_weights(), device='cpu').model.backbone.layers
    assert (type(layers[0].conv).__name__, layers[0].bn.eps) == ('Conv2dSame', 1e-3)


def test_the_network_is_frozen_in_eval_mode(predictor):
    model = predictor.network.model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_weights_may_lack_the_counters_that_change_nothing():
    whole = random_weights()
    networks = [build_network(weights, device='cpu').model
                for weights in (whole, without(whole, 'num_batches_tracked'))]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole, without_counters = (network(image) for network in networks)
    assert torch.equal(whole, without_counters)


def test_the_first_bad_picture_is_named(predictor, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no picture')
    with pytest.raises(ImageError, match=r'bad\.jpg: not a picture'):
        predictor([colour('red'), tmp_path / 'bad.jpg'])


def test_a_stream_goes_on_after_a_bad_picture(predictor, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no picture')
    sources = [tmp_path / 'bad.jpg', colour('red'), tmp_path / 'bad.jpg', tmp_path / 'bad.jpg',
               colour('blue')]
    outcomes = list(predictor.stream(sources))
    assert [outcome.source for outcome in outcomes] == sources
    assert [bool(outcome.error) for outcome in outcomes] == [True, False, True, True, False]
    assert [len(outcome.predictions) for outcome in outcomes] == [0, 5, 0, 0, 5]


def test_a_stream_of_bad_pictures_waits_for_no_good_one(predictor, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no picture')
    sources = iter([tmp_path / 'bad.jpg'] * 9)
    assert next(predictor.stream(sources)).error
    assert len(list(sources)) == 7  # a batch of two has been taken


@pytest.mark.parametrize(('size', 'shown'), [((4100, 90), (2050, 45)), ((9000, 2), (9000, 2))])
def test_a_large_picture_is_kept_smaller_for_showing(predictor, size, shown):
    outcome, = predictor.stream([Image.new('RGB', size)])
    assert outcome.image.size == shown


def test_weights_of_a_deployed_network_give_what_they_gave_before():
    weights = random_weights('b0')
    network = build_network(weights, device='cpu').model
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        network.backbone.switch_to_deploy()
        deployed = build_network(replace(weights, state=network.state_dict()), device='cpu').model
        assert deployed.backbone.deploy
        assert expected.std() > 0.1 * expected.abs().max()
        torch.testing.assert_close(deployed(image), expected, rtol=0,
                                   atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_run_in_float32(dtype):
    weights = random_weights()
    weights.state.update({key: tensor.to(dtype) for key, tensor in weights.state.items()
                          if tensor.is_floating_point()})
    assert sum(one.probability for one in predict(colour('red'), weights, 7, 'cpu')) == (
        pytest.approx(1))


def test_predict_is_one_call(monkeypatch):
    monkeypatch.setattr(network, 'load_weights', lambda source: random_weights())
    assert [len(found) for found in predict([colour('red')] * 2, device='cpu', topk=2)] == [2, 2]


# What is refused.

@pytest.mark.parametrize(('options', 'match'), [
    (dict(device='tpu:9'), "device 'tpu:9' does not work here"),
    (dict(device='cuda:99'), "device 'cuda:99' does not work here"),
    (dict(batch_size=0), 'batch size 0 must be'),
    (dict(resampler='nearest'), "resampler='nearest' must be one of"),
    (dict(classes=['a', 'b']), 'classes: 2 names, and the classifier has 7 classes'),
    (dict(classes='nowhere.txt'), "class file 'nowhere.txt' cannot be read")])
def test_a_bad_argument_is_named(options, match):
    with pytest.raises(InputError, match=match):
        Predictor(random_weights(), **{'device': 'cpu', **options})


def test_topk_below_one_is_refused(predictor):
    with pytest.raises(InputError, match='topk=0 must be'):
        predictor(colour('red'), topk=0)


def test_weights_that_cannot_predict_are_refused():
    weights = random_weights()
    with pytest.raises(InputError, match='random weights: these weights have no classifier'):
        build_network(without(weights, 'head.'), device='cpu')
    with pytest.raises(InputError, match='random weights: these are .* no published variant, and '
                       'the architecture and the size of its input and its normalisation cannot'):
        build_network(replace(weights, variant=None), device='cpu')
    with pytest.raises(InputError, match=r'random weights: tensors of lite0 are missing: .*bn'):
        build_network(without(weights, 'layers.3.0.depthwise_conv.bn.weight'), device='cpu')


@pytest.mark.parametrize('tensor', ['head.fc.bias', 'backbone.layers.3.0.depthwise_conv.bn.bias'])
def test_weights_whose_output_is_no_number_are_named(tensor):
    weights = random_weights()
    weights.state[tensor][0] = torch.nan
    with pytest.raises(InputError, match="random weights: the network's output is no number"):
        predict(colour('red'), weights, device='cpu')


@pytest.mark.parametrize('size', [(1, 300), (300, 1)])
def test_a_picture_that_cv2_cannot_resize_is_one_failure(size):
    predictor = Predictor(random_weights(), device='cpu', resampler='cv2')
    strip = Image.new('RGB', size)
    bad, good = predictor.stream([strip, colour('red')])
    assert (bad.source, good.error) == (strip, None)
    assert f"'cv2' cannot take {size[0]} x {size[1]} pixels" in bad.error.reason
    assert len(Predictor(random_weights(), device='cpu')(strip)) == 5


# Names.

def test_classes_are_imagenet_s_or_numbered_or_given(tmp_path):
    assert class_names(None, 1000) == tuple(IMAGENET_CATEGORIES)
    assert class_names(None, 2) == ('class 0', 'class 1')
    (tmp_path / 'names.txt').write_text('köttur\n\nhundur\n', encoding='utf-8')
    assert class_names(tmp_path / 'names.txt', 2) == ('köttur', 'hundur')
    (tmp_path / 'names.txt').write_text('köttur\nhundur\n', encoding='utf-8-sig')
    assert class_names(tmp_path / 'names.txt', 2) == ('köttur', 'hundur')


@pytest.mark.parametrize(('wanted', 'index'), [
    (282, 282), ('282', 282), ('tiger cat', 282), ('Tabby', 281), ('tabby, tabby cat', 281),
    ('maillot', 638)])
def test_a_class_is_found_by_index_name_or_synonym(wanted, index):
    # 639 is 'maillot, tank suit': a whole name goes before a synonym.
    assert find_class(IMAGENET_CATEGORIES, wanted) == index


@pytest.mark.parametrize(('wanted', 'index'), [
    ('10', 2), (10, 10), (np.int64(2), 2), ('100', 3), (' 11 ', 5), ('0', 0)])
def test_a_text_is_a_name_before_it_is_an_index(wanted, index):
    """Names of folders are sorted as texts."""
    names = ['house', '1', '10', '100', '101', '11, eleven', *('x' * i for i in range(6, 12))]
    assert find_class(names, wanted) == index


def test_a_number_that_several_classes_are_called_is_refused():
    with pytest.raises(InputError, match=r"2 classes are called '7': give an index \(1, 2\)"):
        find_class(['0', '7', '7', *'abcdefgh'], '7')


@pytest.mark.parametrize(('wanted', 'match'), [
    ('tigre cat', "no class is called 'tigre cat'; did you mean 'tiger cat'"),
    ('crane', r"2 classes are called 'crane': give an index \(134, 517\)"),
    ('1000', 'class 1000 does not exist: there are 0 to 999'),
    ('²', "no class is called '²'"), ('--5', "no class is called '--5'"),
    (-1, 'class -1 does not exist')])
def test_an_unknown_class_is_refused_with_help(wanted, match):
    with pytest.raises(InputError, match=match):
        find_class(IMAGENET_CATEGORIES, wanted)


@pytest.mark.parametrize(('variant', 'title'), [
    ('b0', 'EfficientNet-B0'), ('lite2', 'EfficientNet-Lite2'), ('l2', 'EfficientNet-L2'),
    ('es', 'EfficientNet-EdgeTPU-S')])
def test_titles_are_those_that_people_use(variant, title):
    assert title_of(variant) == title
