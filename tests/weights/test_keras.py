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
    return calibrated(network)


def calibrated(network):
    """The network with BatchNorm statistics of random images, so that outputs do not explode.

    The seed is for Keras's dropout of blocks, which moves the statistics.
    """
    keras.utils.set_random_seed(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.  # one step then leaves the statistics of its batch
    network(255 * np.random.default_rng(0).random((2, *network.input_shape[1:])), training=True)
    return network


def save_legacy(network, path):
    """What ``save_weights('....h5')`` of Keras 2 writes: layers by name, at the file's root."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
    with h5py.File(path, 'w') as file:
        save_weights_to_hdf5_group(file, network)


WRITERS = {'model.save': ('theirs.h5', lambda network, path: network.save(path)),
           'save_weights': ('theirs.weights.h5', lambda network, path: network.save_weights(path)),
           'legacy save_weights': ('theirs.h5', save_legacy)}


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


def judged(network, image):
    """Keras's own output, with channels first."""
    output = torch.as_tensor(keras.ops.convert_to_numpy(
        network(image.permute(0, 2, 3, 1).numpy(), training=False)))
    return output.permute(0, 3, 1, 2) if output.ndim == 4 else output


def random_image(height, width):
    generator = torch.Generator().manual_seed(height)
    return 255 * torch.rand((1, 3, height, width), dtype=torch.float64, generator=generator)


@pytest.fixture(scope='module')
def judgements(b0):
    """Image and logits of Keras at every size; it builds another network for each."""
    found = []
    for size in ((64, 64), (65, 65), (63, 66)):
        image = random_image(*size)
        found.append((image, judged(same_weights(build('b0', size), b0), image)))
    return found


@pytest.mark.parametrize('writer', WRITERS)
def test_logits_are_those_of_keras(writer, b0, judgements, tmp_path):
    name, save = WRITERS[writer]
    save(b0, tmp_path / name)
    weights = load_weights(tmp_path / name)
    assert (weights.variant, weights.classes, weights.layout) == ('b0', CLASSES, 'lukemelas')
    for image, expected in judgements:
        assert expected.std() > 1e-3
        assert peers.relative_difference(outputs(weights, image), expected) < 1e-9


def test_a_wider_network_without_classifier_is_read_from_all_kinds_of_files(tmp_path):
    network, found = build('b2', (63, 66), top=False), []
    for number, (name, save) in enumerate(WRITERS.values()):
        save(network, tmp_path / f'{number}{name}')
        found.append(load_weights(tmp_path / f'{number}{name}'))
    first, *others = found
    assert (first.variant, first.classes) == ('b2', None)
    for other in others:
        assert first.state.keys() == other.state.keys()
        assert all(torch.equal(first.state[key], other.state[key]) for key in first.state)
    image = random_image(63, 66)
    assert peers.relative_difference(outputs(first, image), judged(network, image)) < 1e-9


def test_automatic_numbers_do_not_depend_on_what_was_built_before(b0, tmp_path):
    """Keras counts layers on through a session; tenth layers come after ninth ones."""
    again = same_weights(build('b0'), b0)
    for name, network in (('a.weights.h5', b0), ('b.weights.h5', again)):
        network.save_weights(tmp_path / name)
    with h5py.File(tmp_path / 'b.weights.h5') as file:
        assert {'conv2d', 'conv2d_1', 'conv2d_10'} < set(file['layers'])
    first, second = (read_keras(tmp_path / name)[0] for name in ('a.weights.h5', 'b.weights.h5'))
    assert all(torch.equal(first[key], second[key]) for key in first)


# Fine-tuning as Keras's own guide does it: a Dense layer after the network or beside it.

@pytest.fixture(scope='module')
def tuned(b0):
    """A classifier with all its layers at one level, and one with the network as a layer."""
    base = keras.applications.EfficientNetB0(weights=None, include_top=False, pooling='avg',
                                             input_shape=(64, 64, 3), name='base')
    base.set_weights(b0.get_weights()[:-2])
    image = keras.Input((64, 64, 3))
    flat = keras.Model(base.input, keras.layers.Dense(CLASSES)(base.output))
    nested = keras.Model(image, keras.layers.Dense(CLASSES)(base(image)))
    for network in (flat, nested):
        network.layers[-1].set_weights(b0.get_weights()[-2:])
    return dict(flat=flat, nested=nested)


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('kind', ['flat', 'nested'])
def test_a_fine_tuned_network_is_read(kind, writer, tuned, b0, tmp_path):
    b0.save(tmp_path / 'b0.h5')
    expected = load_weights(tmp_path / 'b0.h5')
    name, save = WRITERS[writer]
    save(tuned[kind], tmp_path / name)
    weights = load_weights(tmp_path / name)
    assert (weights.classes, weights.norm) == (CLASSES, expected.norm)
    assert weights.state.keys() == expected.state.keys()
    assert all(torch.equal(weights.state[key], value) for key, value in expected.state.items())


@pytest.mark.parametrize(('name', 'layers', 'network'), [
    ('two.h5', 'model_weights', 'base'), ('two.weights.h5', 'layers', 'functional')])
def test_several_networks_are_refused(name, layers, network, tuned, tmp_path):
    WRITERS['save_weights' if 'weights' in name else 'model.save'][1](
        tuned['nested'], tmp_path / name)
    with h5py.File(tmp_path / name, 'a') as file:
        file.copy(f'{layers}/{network}', f'{layers}/{network}_1')
    with pytest.raises(InputError, match=rf"{name}' .*several networks.*: save the EfficientNet"):
        read_keras(tmp_path / name)


@pytest.mark.parametrize('attribute', ['backbone', 'trunk'])  # Keras sorts them: before 'layers'
def test_a_class_of_ones_own_is_named(attribute, b0, tmp_path):
    class Tuned(keras.Model):
        def __init__(self):
            super().__init__()
            setattr(self, attribute, b0)
            self.fc = keras.layers.Dense(2)

        def call(self, x):
            return self.fc(getattr(self, attribute)(x))
    model = Tuned()
    model(np.zeros((1, *b0.input_shape[1:]), 'float32'))
    model.save_weights(tmp_path / 'own.weights.h5')
    with pytest.raises(InputError, match='derives from keras.Model.*: save the EfficientNet that'):
        read_keras(tmp_path / 'own.weights.h5')


def test_a_classifier_of_the_largest_values_is_refused_and_a_backbone_is_not(b0, tmp_path):
    features = keras.layers.GlobalMaxPooling2D()(b0.get_layer('top_activation').output)
    keras.Model(b0.input, features).save(tmp_path / 'backbone.h5')
    assert load_weights(tmp_path / 'backbone.h5').classes is None
    keras.Model(b0.input, keras.layers.Dense(2)(features)).save(tmp_path / 'largest.h5')
    with pytest.raises(InputError, match=r"largest.h5': its classifier .* \(GlobalMaxPooling2D\)"):
        read_keras(tmp_path / 'largest.h5')


# What Keras publishes: layers by name, and standard deviations in the place of variances.

MEAN, STD = np.array(IMAGENET_NORM.mean) / 255, np.array(IMAGENET_NORM.std) / 255


def published(source, path, variance, config=None, mean=MEAN):
    """A file as keras.applications downloads it, of the weights in ``source``."""
    with h5py.File(source) as theirs, h5py.File(path, 'w') as ours:
        def copy(name, item):
            if hasattr(item, 'shape') and not name.startswith('normalization'):
                name = name.replace('dwconv/kernel', 'dwconv/depthwise_kernel')
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


def multiply(scale):
    """How Keras 2 (tf_keras 2.21) describes the same: the factor is an argument of the call."""
    return [dict(class_name='TFOpLambda', name='tf.math.multiply',
                 config=dict(name='tf.math.multiply', function='math.multiply'),
                 inbound_nodes=[['normalization', 0, 0, dict(y=[[[scale]]])]])]


STEM = [dict(class_name='ZeroPadding2D', config={}), dict(class_name='Conv2D', config={})]


@pytest.mark.parametrize(('after', 'factor'), [
    (rescaling((1 / STD ** 0.5).tolist()), 1 / STD),
    (multiply((1 / STD ** 0.5).tolist()), 1 / STD),
    ([], 1 / STD ** 0.5),
    (STEM + rescaling(7.), 1 / STD ** 0.5),  # whatever comes later is not the input's
])
def test_the_networks_own_description_decides_where_it_is_there(after, factor, b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    layers = [*rescaling(1 / 255), dict(class_name='Normalization', config={}), *after]
    published(tmp_path / 'source.h5', tmp_path / 'own.h5', STD,
              config=dict(config=dict(layers=layers)))
    norm = load_weights(tmp_path / 'own.h5').norm
    np.testing.assert_allclose(norm.mean, IMAGENET_NORM.mean, atol=1e-3)
    np.testing.assert_allclose(norm.std, 255 / factor, atol=1e-3)


@pytest.mark.parametrize('layer', [
    dict(class_name='TFOpLambda', config=dict(name='tf.math.add', function='math.add')),
    dict(class_name='Lambda', config=dict(name='own')),
    dict(class_name='Rescaling', config=dict(name='shift', scale=2., offset=-1.))])
def test_a_layer_before_the_stem_that_cannot_be_told_is_refused(layer, b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    layers = [*rescaling(1 / 255), layer, dict(class_name='Normalization', config={})]
    published(tmp_path / 'source.h5', tmp_path / 'own.h5', STD,
              config=dict(config=dict(layers=layers)))
    name = layer['config']['name']
    with pytest.raises(InputError, match=rf"own.h5': layer '{name}' .* changes the input"):
        read_keras(tmp_path / 'own.h5')


def test_a_normalisation_that_cannot_be_told_is_refused(b0, tmp_path):
    b0.save(tmp_path / 'source.h5')
    published(tmp_path / 'source.h5', tmp_path / 'own.h5', STD, mean=MEAN + 0.1)
    with pytest.raises(InputError, match=r'own.h5. normalises by mean \[0.585, .*model.save'):
        read_keras(tmp_path / 'own.h5')


def test_a_network_without_weights_expects_input_in_0_to_1(b0, tmp_path):
    b0.save_weights(tmp_path / 'own.weights.h5')
    assert read_keras(tmp_path / 'own.weights.h5')[1] == Norm(mean=(0., ) * 3, std=(255., ) * 3)
    assert VARIANTS['b0'].norm == IMAGENET_NORM  # which is why it has to be told


@pytest.mark.parametrize('writer', WRITERS)
def test_the_published_weights_give_what_keras_gives_with_them(writer, b0, tmp_path):
    """By way of weights='imagenet', whose network divides by the root of the deviations."""
    source = build('b0', top=False)
    norm = source.get_layer(index=2)
    assert isinstance(norm, keras.layers.Normalization)
    norm.adapt_mean.assign(MEAN)
    norm.adapt_variance.assign(STD)  # sic
    save_legacy(source, tmp_path / 'efficientnetb0_notop.h5')
    published_file = str(tmp_path / 'efficientnetb0_notop.h5')
    with mock.patch('keras.src.applications.efficientnet.file_utils.get_file',
                    return_value=published_file):
        network = keras.applications.EfficientNetB0(weights='imagenet', include_top=False,
                                                    input_shape=(64, 64, 3))
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in network.layers) == 2
    # Its second scaling doubles the input that the statistics were taken from.
    save_legacy(calibrated(network), published_file)
    name, save = WRITERS[writer]
    save(network, tmp_path / name)
    image = random_image(64, 64)
    for path in (published_file, tmp_path / name):
        weights = load_weights(path)
        assert weights.norm == IMAGENET_NORM
        assert peers.relative_difference(outputs(weights, image), judged(network, image)) < 1e-9


def without(source, path, *removed):
    """A copy of a file that lacks some of its groups."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, 'a') as file:
        for name in removed:
            del file[name]
    return path


NAMED = 'model_weights/{0}/{0}/{1}'


@pytest.mark.parametrize(('removed', 'message'), [
    ([NAMED.format('block3a_bn', 'gamma')], r"lacks 1 variables .*\(block3a_bn/gamma\)"),
    (['model_weights/top_conv', 'model_weights/block2a_expand_conv'],
     r'lacks 2 variables .*\(block2a_expand_conv/kernel, top_conv/kernel\)'),
    ([NAMED.format('predictions', 'bias')], r'lacks 1 variables .*\(predictions/bias\)'),
    (['model_weights/stem_bn'],
     r'lacks 4 variables .*\(stem_bn/beta, stem_bn/gamma, stem_bn/moving_mean and 1 more\)'),
    (['model_weights/normalization'], None),
])
def test_missing_variables_are_named(removed, message, b0, tmp_path):
    b0.save(tmp_path / 'whole.h5')
    # The number of the normalisation goes on through a session.
    removed = [name.replace('normalization', b0.layers[2].name) for name in removed]
    path = without(tmp_path / 'whole.h5', tmp_path / 'torn.h5', *removed)
    if message is None:
        assert read_keras(path)[1] is None  # nothing is known of its input then
        return
    with pytest.raises(InputError, match=r"torn.h5' " + message):
        read_keras(path)


@pytest.mark.parametrize(('block', 'message'), [
    ('block6b', r'lacks .*block6b_bn/beta'),              # as wide as those after it
    ('block7a', r'lacks .*|has the keys of .* and the shapes of none'),  # the last one
])
def test_a_block_that_is_missing_as_a_whole_is_seen(block, message, b0, tmp_path):
    b0.save(tmp_path / 'whole.h5')
    with h5py.File(tmp_path / 'whole.h5') as file:
        layers = [f'model_weights/{name}' for name in file['model_weights']
                  if name.startswith(block)]
    with pytest.raises(InputError, match=message):
        load_weights(without(tmp_path / 'whole.h5', tmp_path / 'torn.h5', *layers))


@pytest.mark.parametrize('removed', ['conv2d_7', 'batch_normalization_3', 'depthwise_conv2d_2',
                                     'batch_normalization_3/vars/1', 'conv2d_2/vars/1'])
def test_numbered_layers_have_to_be_all_there(removed, b0, tmp_path):
    b0.save_weights(tmp_path / 'whole.weights.h5')
    path = without(tmp_path / 'whole.weights.h5', tmp_path / 'torn.weights.h5',
                   f'layers/{removed}')
    with pytest.raises(InputError, match='torn.weights.h5.* (lacks|does not have)'):
        read_keras(path)


def test_swapped_numbers_do_not_go_unnoticed(b0, tmp_path):
    b0.save_weights(tmp_path / 'own.weights.h5')
    with h5py.File(tmp_path / 'own.weights.h5', 'a') as file:
        layers = file['layers']
        layers.move('batch_normalization_2', 'kept')
        layers.move('batch_normalization_3', 'batch_normalization_2')
        layers.move('kept', 'batch_normalization_3')
    with pytest.raises(InputError, match='numbered layers cannot be told apart'):
        read_keras(tmp_path / 'own.weights.h5')


def test_other_networks_are_named(tmp_path):
    other = keras.Sequential([keras.layers.Input((8, 8, 3)),
                              keras.layers.Conv2D(2, 3, name='one'),
                              keras.layers.Flatten(), keras.layers.Dense(2, name='two')])
    other.save(tmp_path / 'other.h5')
    with pytest.raises(InputError, match=r'has 2 variables of no EfficientNet \(one/bias, '
                                         r'one/kernel\) and lacks 11'):
        read_keras(tmp_path / 'other.h5')
    other.save_weights(tmp_path / 'other.weights.h5')
    with pytest.raises(InputError, match='does not have the layers of an EfficientNet'):
        read_keras(tmp_path / 'other.weights.h5')


def test_a_layer_of_another_kind_is_named(tmp_path):
    other = keras.Sequential([keras.layers.Input((8, 8)), keras.layers.LSTM(2)])
    other.save_weights(tmp_path / 'other.weights.h5')
    with h5py.File(tmp_path / 'other.weights.h5', 'a') as file:
        file['layers/lstm/vars/0'] = np.zeros(1)
    with pytest.raises(InputError, match=r'has 1 variables of no EfficientNet \(lstm\)'):
        read_keras(tmp_path / 'other.weights.h5')


def test_damaged_files_are_named_with_the_reason(b0, tmp_path):
    b0.save(tmp_path / 'whole.h5')
    whole = (tmp_path / 'whole.h5').read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        (tmp_path / 'torn.h5').write_bytes(whole[:int(share * len(whole))])
        with pytest.raises(InputError, match=r"torn.h5' \(.* is no whole HDF5 file .*trunc"):
            read_keras(tmp_path / 'torn.h5')
    (tmp_path / 'other.h5').write_bytes(b'not HDF5 at all')
    with pytest.raises(InputError, match='other.h5.*is no whole HDF5 file .*signature'):
        read_keras(tmp_path / 'other.h5')
    with pytest.raises(InputError, match='gone.h5. does not exist'):
        read_keras(tmp_path / 'gone.h5')
