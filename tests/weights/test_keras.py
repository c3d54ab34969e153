"""Files of Keras give the outputs of Keras, its own normalisation included."""
import json
import os
from unittest import mock

import numpy as np
import peers
import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.variants import IMAGENET_NORM, Norm
from mmeffnet.weights import load_weights
from mmeffnet.weights.keras import read_keras

with mock.patch.dict(os.environ, KERAS_BACKEND='torch'):  # read by the first import
    keras = pytest.importorskip('keras', reason='keras is a judge, and not installed')
h5py = pytest.importorskip('h5py', reason='needs mmeffnet[keras]')

CLASSES = 7


@pytest.fixture(autouse=True, scope='module')
def _float64():
    before = keras.config.floatx()
    keras.config.set_floatx('float64')
    # Keras computes means and BatchNorm in float32 all the same: float64 with float32 is
    # float32 to it, and here float64.
    from keras.src.backend.common import dtypes
    usual = dtypes.result_type

    def widest(*types):
        return 'float64' if 'float64' in str(types) else usual(*types)
    with mock.patch.object(dtypes, 'result_type', widest), mock.patch(
            'keras.src.layers.normalization.batch_normalization.backend.result_type', widest):
        yield
    keras.config.set_floatx(before)


def build(arch, size=(64, 64), top=True):
    """Keras's network in float64 with random weights, the same ones at every size.

    The size has to be given: Keras pads an unknown size as if it were even.
    """
    make = getattr(keras.applications, f'EfficientNet{arch.upper()}')
    network = make(weights=None, include_top=top, classes=CLASSES,
                   input_shape=(*size, 3), classifier_activation=None)
    generator = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            noise = generator.normal(size=variable.shape)
            if variable.name in ('gamma', 'beta', 'bias'):
                # Long chains of residuals at full strength amplify rounding.
                small = 0.3 if 'project' in layer.name and variable.name == 'gamma' else 1
                variable.assign(small * (variable.numpy() + 0.1 * noise))
            elif variable.name == 'kernel':
                variable.assign(noise / np.sqrt(np.prod(variable.shape[:-1])))
    norms = [layer for layer in network.layers if isinstance(
        layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.  # one step then leaves the statistics of its batch
    network(255 * generator.random((2, *size, 3)), training=True)
    return network


def same_weights(network, other):
    network.set_weights(other.get_weights())
    return network


@pytest.fixture(scope='module')
def b0():
    return build('b0')


def outputs(weights, image):
    """Features and logits of our network with the weights, for an image in 0..255."""
    backbone = EfficientNet(weights.variant).double().eval()
    backbone.load_state_dict({key.removeprefix('backbone.'): value for key, value in
                              weights.state.items() if key.startswith('backbone.')})
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
                 for values in (weights.norm.mean, weights.norm.std))
    with torch.no_grad():
        features = backbone((image - mean) / std)[-1]
    if weights.classes is None:
        return features
    return torch.nn.functional.linear(features.mean((2, 3)), weights.state['head.fc.weight'],
                                      weights.state['head.fc.bias'])


@pytest.mark.parametrize('suffix', ['h5', 'weights.h5'])
def test_logits_are_those_of_keras(suffix, b0, tmp_path):
    path = tmp_path / f'theirs.{suffix}'
    (b0.save_weights if 'weights' in suffix else b0.save)(path)
    weights = load_weights(path)
    assert (weights.variant, weights.classes, weights.layout) == ('b0', CLASSES, 'lukemelas')
    for height, width in ((64, 64), (65, 65), (63, 66)):
        image = 255 * torch.rand((1, 3, height, width), dtype=torch.float64,
                                 generator=torch.Generator().manual_seed(height))
        judge = same_weights(build('b0', (height, width)), b0)
        expected = torch.as_tensor(keras.ops.convert_to_numpy(
            judge(image.permute(0, 2, 3, 1).numpy(), training=False)))
        assert expected.std() > 1e-3
        assert peers.relative_difference(outputs(weights, image), expected) < 1e-9


def test_a_deeper_network_without_classifier_is_read_from_both_kinds_of_files(tmp_path):
    network = build('b1', (63, 66), top=False)
    network.save(tmp_path / 'theirs.h5')
    network.save_weights(tmp_path / 'theirs.weights.h5')
    named, numbered = (load_weights(tmp_path / f'theirs.{s}') for s in ('h5', 'weights.h5'))
    assert (named.variant, named.classes) == ('b1', None)
    assert named.state.keys() == numbered.state.keys()
    assert all(torch.equal(named.state[key], numbered.state[key]) for key in named.state)
    image = 255 * torch.rand(1, 3, 63, 66, dtype=torch.float64)
    expected = torch.as_tensor(keras.ops.convert_to_numpy(
        network(image.permute(0, 2, 3, 1).numpy(), training=False))).permute(0, 3, 1, 2)
    assert peers.relative_difference(outputs(named, image), expected) < 1e-9


# What Keras publishes: layers by name, and standard deviations in the place of variances.

MEAN, STD = np.array(IMAGENET_NORM.mean) / 255, np.array(IMAGENET_NORM.std) / 255


def published(source, path, variance, config=None, mean=MEAN):
    """A file as keras.applications downloads it, of the weights in ``source``."""
    with h5py.File(source) as theirs, h5py.File(path, 'w') as ours:
        def copy(name, item):
            if hasattr(item, 'shape') and not name.startswith('normalization'):
                ours[f'{name}:0'] = item[()]
        theirs['model_weights'].visititems(copy)
        layer = ours.create_group('normalization/normalization')
        layer['mean:0'], layer['variance:0'], layer['count:0'] = mean, variance, 0
        if config is not None:
            ours.attrs['model_config'] = json.dumps(config)


@pytest.mark.parametrize('variance', [STD, STD ** 2], ids=['deviations', 'variances'])
def test_the_published_normalisation_is_imagenets_however_it_is_written(variance, b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    published(tmp_path / 'source.h5', tmp_path / 'efficientnetb0.h5', variance)
    weights = load_weights(tmp_path / 'efficientnetb0.h5')
    assert weights.norm == IMAGENET_NORM
    own = load_weights(tmp_path / 'source.h5')
    assert all(torch.equal(own.state[key], value) for key, value in weights.state.items())


def rescaling(*scales):
    return [dict(class_name='Rescaling', config=dict(name='rescaling', scale=scale))
            for scale in scales]


@pytest.mark.parametrize(('after', 'factor'), [(rescaling((1 / STD ** 0.5).tolist()), 1 / STD),
                                               ([], 1 / STD ** 0.5)])
def test_the_networks_own_description_decides_where_it_is_there(after, factor, b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    layers = [*rescaling(1 / 255), dict(class_name='Normalization', config={}), *after]
    published(tmp_path / 'source.h5', tmp_path / 'own.h5', STD,
              config=dict(config=dict(layers=layers)))
    norm = load_weights(tmp_path / 'own.h5').norm
    np.testing.assert_allclose(norm.mean, IMAGENET_NORM.mean, atol=1e-3)
    np.testing.assert_allclose(norm.std, 255 / factor, atol=1e-3)


def test_a_normalisation_that_cannot_be_told_is_refused(b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    published(tmp_path / 'source.h5', tmp_path / 'own.h5', STD, mean=MEAN + 0.1)
    with pytest.raises(InputError, match=r'own.h5. normalises by mean \[0.585, .*model.save'):
        read_keras(tmp_path / 'own.h5')


def test_a_network_without_weights_expects_input_in_0_to_1(b0, tmp_path):
    b0.save_weights(tmp_path / 'own.weights.h5')
    assert read_keras(tmp_path / 'own.weights.h5')[1] == Norm(mean=(0., ) * 3, std=(255., ) * 3)
    assert VARIANTS['b0'].norm == IMAGENET_NORM  # which is why it has to be told


def test_other_networks_and_damaged_files_are_named(tmp_path):
    other = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(2, 3),
                              keras.layers.Flatten(), keras.layers.Dense(2)])
    other.save(tmp_path / 'other.h5')
    with pytest.raises(InputError, match='2 layers are none of an EfficientNet'):
        read_keras(tmp_path / 'other.h5')
    other.save_weights(tmp_path / 'other.weights.h5')
    with pytest.raises(InputError, match='does not have the layers of an EfficientNet'):
        read_keras(tmp_path / 'other.weights.h5')
    whole = (tmp_path / 'other.h5').read_bytes()
    (tmp_path / 'torn.h5').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match='torn.h5.*is no whole HDF5 file'):
        read_keras(tmp_path / 'torn.h5')
