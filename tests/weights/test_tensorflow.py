"""Checkpoints of the TPU code, written with TensorFlow under its variable names."""
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import peers
import pytest
import torch

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.engine.convert import main
from mmeffnet.errors import InputError
from mmeffnet.weights import load_weights
from mmeffnet.weights.layouts import conv_shapes
from mmeffnet.weights.tensorflow import import_tensorflow, read_tensorflow

pytestmark = pytest.mark.skipif(find_spec('tensorflow') is None,
                                reason='needs mmeffnet[tensorflow]')

SCOPES = dict(b0='efficientnet-b0', es='efficientnet-edgetpu-S', lite0='efficientnet-lite0')


def variables(arch, classes):
    """Variable of TensorFlow -> (key of ours, value in TensorFlow's order of axes).

    Written out block by block as efficientnet_model.py creates them, and not by our tables.
    """
    generator = np.random.default_rng(0)
    found, network = {}, VARIANTS[arch].arch

    def conv(name, key, shape):
        depthwise = 'depthwise' in name
        value = generator.normal(size=shape).astype('float32')
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        found[f'{name}/{"depthwise_kernel" if depthwise else "kernel"}'] = (
            f'{key}.weight', value.transpose(order), value)

    def norm(name, key, width):
        for theirs, ours in dict(gamma='weight', beta='bias', moving_mean='running_mean',
                                 moving_variance='running_var').items():
            value = generator.normal(size=width).astype('float32')
            found[f'{name}/{theirs}'] = f'{key}.{ours}', value, value

    def bias(name, key, width):
        value = generator.normal(size=width).astype('float32')
        found[f'{name}/bias'] = f'{key}.bias', value, value

    norms = 'tpu_batch_normalization' if arch != 'lite0' else 'batch_normalization'
    shapes = conv_shapes(network)
    conv('stem/conv2d', 'layers.0.conv', (network.stem, 3, 3, 3))
    norm(f'stem/{norms}', 'layers.0.bn', network.stem)
    count = 0
    for group, blocks in enumerate(network.blocks(), start=1):
        for place, block in enumerate(blocks):
            name, key = f'blocks_{count}', f'layers.{group}.{place}'
            if block.kind == 'fused':
                order = ['conv1', 'conv2']
            else:
                order = ['expand_conv', 'depthwise_conv', 'linear_conv']
                order = order[block.hidden == block.in_channels:]
            convs = 0
            for bns, layer in enumerate(order):
                suffix = f'_{convs}' if convs else ''
                theirs = 'depthwise_conv2d' if layer == 'depthwise_conv' else f'conv2d{suffix}'
                convs += layer != 'depthwise_conv'
                shape = shapes[f'{key}.{layer}.conv']
                conv(f'{name}/{theirs}', f'{key}.{layer}.conv', shape)
                norm(f'{name}/{norms}{f"_{bns}" if bns else ""}', f'{key}.{layer}.bn', shape[0])
            if block.squeeze:
                for number, theirs in ((1, 'se/conv2d'), (2, 'se/conv2d_1')):
                    shape = shapes[f'{key}.se.conv{number}.conv']
                    conv(f'{name}/{theirs}', f'{key}.se.conv{number}.conv', shape)
                    bias(f'{name}/{theirs}', f'{key}.se.conv{number}.conv', shape[0])
            count += 1
    last = len(network.groups) + 1
    conv('head/conv2d', f'layers.{last}.conv', shapes[f'layers.{last}.conv'])
    norm(f'head/{norms}', f'layers.{last}.bn', network.head)
    value = generator.normal(size=(classes, network.head)).astype('float32')
    found['head/dense/kernel'] = 'head.fc.weight', value.T, value
    bias('head/dense', 'head.fc', classes)
    return {f'{SCOPES[arch]}/{name}': rest for name, rest in found.items()}


def write(folder, values, prefix='model.ckpt'):
    """Write arrays as TensorFlow does."""
    tf = import_tensorflow()
    tf.raw_ops.SaveV2(prefix=str(folder / prefix), tensor_names=list(values),
                      shape_and_slices=[''] * len(values),
                      tensors=[tf.constant(value) for value in values.values()])


@pytest.fixture(scope='module', params=SCOPES)
def checkpoint(request, tmp_path_factory):
    """A folder with a checkpoint as the TPU code leaves it, and what has to come out."""
    folder, arch = tmp_path_factory.mktemp('tpu'), request.param
    wanted = variables(arch, 1001 if arch == 'es' else 1000)
    raw = {name: theirs for name, (_, theirs, _) in wanted.items()}
    write(folder, {
        **{name: value + 1 for name, value in raw.items()},
        **{f'{name}/ExponentialMovingAverage': value for name, value in raw.items()},
        **{f'{name}/RMSProp': value for name, value in raw.items()},
        **{f'{name}/RMSProp_1': value for name, value in raw.items()},
        'global_step': np.int64(7)})
    return folder, arch, {key: value for key, _, value in wanted.values()}


def test_every_tensor_finds_its_place_and_the_average_is_chosen(checkpoint):
    folder, arch, wanted = checkpoint
    weights = load_weights(folder)
    assert (weights.variant, weights.classes) == (arch, 1000)
    assert len(weights.state) == len(wanted)
    for key, value in wanted.items():
        own = weights.state[key if key.startswith('head.') else f'backbone.{key}'].numpy()
        if key.startswith('head.') and arch == 'es':
            value = value[1:]  # the background class
        assert np.array_equal(own, value), key


def test_the_last_weights_come_when_they_are_asked_for(checkpoint):
    folder, _, wanted = checkpoint
    state = read_tensorflow(folder / 'model.ckpt', average=False)
    np.testing.assert_array_equal(state['_conv_stem.weight'], wanted['layers.0.conv.weight'] + 1)


@pytest.mark.parametrize('name', ['model.ckpt', 'model.ckpt.index',
                                  'model.ckpt.data-00000-of-00001'])
def test_any_of_its_names_will_do(name, checkpoint):
    folder, arch, _ = checkpoint
    assert load_weights(folder / name).variant == arch


KERNEL = 'efficientnet-lite0/stem/conv2d/kernel'


def raw(step=0):
    """A whole Lite0 without averages."""
    return {name: theirs + step for name, (_, theirs, _) in variables('lite0', 10).items()}


def test_a_checkpoint_without_averages_is_refused_unless_asked(tmp_path):
    write(tmp_path, raw())
    with pytest.raises(InputError, match=r'no moving average of \d+ of its \d+ variables .*--raw'):
        read_tensorflow(tmp_path)
    assert '_conv_stem.weight' in read_tensorflow(tmp_path, average=False)


def test_the_tool_takes_the_averages_or_what_is_asked_for(tmp_path):
    write(tmp_path, {f'{name}{average}': value + (not average) for name, value in raw().items()
                     for average in ('', '/ExponentialMovingAverage')})
    for options, step in (([], 0), (['--raw'], 1)):
        (tmp_path / f'{step}').mkdir()
        main([str(tmp_path), f'{tmp_path}/{step}/clean.pth', *options])
        written, = (tmp_path / f'{step}').iterdir()
        np.testing.assert_array_equal(
            load_weights(written).state['backbone.layers.0.conv.weight'].permute(2, 3, 1, 0),
            raw(step)[KERNEL])


@pytest.mark.parametrize(('name', 'message'), [
    ('resnet/conv2d/kernel', 'holds no variables of an EfficientNet'),
    ('efficientnet-b0/blocks_0/condconv2d/kernel', 'CondConv network'),
    ('efficientnet-b0/blocks_0/other/kernel', 'has 1 variables of no EfficientNet .* and lacks'),
])
def test_other_networks_are_refused(name, message, tmp_path):
    write(tmp_path, {name: np.zeros(3, 'float32')})
    with pytest.raises(InputError, match=message):
        read_tensorflow(tmp_path, average=False)


def refusal(folder, values, **options):
    write(folder, values)
    with pytest.raises(InputError) as caught:
        read_tensorflow(folder, **options)
    return str(caught.value)


@pytest.mark.parametrize(('removed', 'message'), [
    (['stem/batch_normalization/gamma'],
     r'lacks 1 variables .*\(efficientnet-lite0/stem/batch_normalization/gamma\)'),
    (['blocks_3/conv2d_1/kernel', 'head/dense/bias', 'blocks_0/depthwise_conv2d/depthwise_kernel',
      'blocks_7/batch_normalization_2/beta', 'head/conv2d/kernel'],
     r'lacks 5 variables .*\(efficientnet-lite0/blocks_0/depthwise_conv2d/depthwise_kernel, '
     r'efficientnet-lite0/blocks_3/conv2d_1/kernel, '
     r'efficientnet-lite0/blocks_7/batch_normalization_2/beta and 2 more\)'),
    (['blocks_4/'], r'lacks \d+ variables .*\(efficientnet-lite0/blocks_4/'),
    (['blocks_15/'], r'lacks 1 variables .*\(block 15 \(from 0\)\)'),
])
def test_missing_variables_are_named(removed, message, tmp_path):
    values = {name: value for name, value in raw().items()
              if not name.partition('/')[2].startswith(tuple(removed))}
    said = refusal(tmp_path, values, average=False)
    assert re.search(message, said), said


def test_a_checkpoint_without_classifier_has_none(tmp_path):
    write(tmp_path, {name: value for name, value in raw().items() if '/dense/' not in name})
    weights = load_weights(tmp_path, average=False)
    assert (weights.variant, weights.classes) == ('lite0', None)


def test_one_missing_average_is_named(tmp_path):
    values = {f'{name}{average}': value for name, value in raw().items()
              for average in ('', '/ExponentialMovingAverage')}
    del values[f'{KERNEL}/ExponentialMovingAverage']
    said = refusal(tmp_path, values)
    assert re.search(rf'no moving average of 1 of its \d+ variables \({KERNEL}\)', said), said


def test_averages_alone_are_read_and_are_no_last_weights(tmp_path):
    values = {f'{name}/ExponentialMovingAverage': value for name, value in raw().items()}
    said = refusal(tmp_path, values, average=False)
    assert 'has no last weights of' in said
    assert 'average=True' in said
    np.testing.assert_array_equal(
        read_tensorflow(tmp_path)['_conv_stem.weight'].permute(2, 3, 1, 0), raw()[KERNEL])


@pytest.mark.parametrize('slots', [['RMSProp', 'RMSProp_1'], ['Momentum'], ['Adam', 'Adam_1'],
                                   ['some_slot_of_any_name']])
def test_the_slots_of_any_optimizer_are_left_out(slots, tmp_path):
    values = {f'{name}{slot}': value for name, value in raw().items()
              for slot in ('', *(f'/{slot}' for slot in slots))}
    write(tmp_path, {**values, 'global_step': np.int64(1), 'beta1_power': np.float32(1)})
    assert len(read_tensorflow(tmp_path, average=False)) == len(raw())


def test_two_networks_in_one_checkpoint_are_refused(tmp_path):
    values = {**raw(), **{name.replace('lite0', 'lite1'): value for name, value in raw().items()}}
    said = refusal(tmp_path, values, average=False)
    assert 'holds 2 networks (efficientnet-lite0, efficientnet-lite1)' in said


def test_torn_checkpoints_are_named(tmp_path):
    write(tmp_path, raw())
    for suffix in ('data-00000-of-00001', 'index'):
        file = tmp_path / f'model.ckpt.{suffix}'
        whole = file.read_bytes()
        for share in (0, 0.01, 0.5, 0.99):
            file.write_bytes(whole[:int(share * len(whole))])
            with pytest.raises(InputError, match='no whole TensorFlow checkpoint'):
                read_tensorflow(tmp_path, average=False)
        file.write_bytes(whole)
    (tmp_path / 'model.ckpt.data-00000-of-00001').unlink()
    with pytest.raises(InputError, match='no whole TensorFlow checkpoint'):
        read_tensorflow(tmp_path, average=False)
    (tmp_path / 'model.ckpt.index').unlink()
    with pytest.raises(InputError, match='model.ckpt. is no TensorFlow checkpoint, which needs'):
        read_tensorflow(tmp_path / 'model.ckpt', average=False)


@pytest.mark.slow
def test_pytorch_works_on_after_a_checkpoint_was_read(tmp_path):
    """In a process of its own: torchvision imports triton, which crashes after TensorFlow."""
    write(tmp_path, raw())
    done = subprocess.run([sys.executable, '-c', f'''
from mmeffnet.weights.tensorflow import read_tensorflow
read_tensorflow({str(tmp_path)!r}, average=False)
import torchvision
print('alive')
'''], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'alive\n'), done.stderr[-2000:]


def test_of_several_checkpoints_the_newest_is_taken_where_the_folder_says_so(tmp_path):
    for step in (1, 2):
        write(tmp_path, raw(step), f'model.ckpt-{step}')
    with pytest.raises(InputError, match='holds 2 TensorFlow checkpoints'):
        read_tensorflow(tmp_path, average=False)
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "/elsewhere/model.ckpt-1"\n')
    state = read_tensorflow(tmp_path, average=False)
    np.testing.assert_array_equal(state['_conv_stem.weight'].permute(2, 3, 1, 0),
                                  raw(1)[KERNEL])


FORWARD = '''
import sys
import numpy as np, tensorflow as tf
prefix, *sizes = sys.argv[1:]
reader = tf.train.load_checkpoint(prefix)
def get(name):
    return tf.cast(reader.get_tensor("efficientnet-b0/" + name + "/ExponentialMovingAverage"),
                   tf.float64)
def conv(x, name, stride=1):
    return tf.nn.conv2d(x, get(name + "/kernel"), stride, "SAME")
def norm(x, name):
    mean, var, gamma, beta = (get(name + "/" + k) for k in (
        "moving_mean", "moving_variance", "gamma", "beta"))
    return tf.nn.batch_normalization(x, mean, tf.abs(var), beta, gamma, 1e-3)
def block(x, b, expand, stride, skip):
    bn, start = b + "tpu_batch_normalization", x
    if expand:
        x = tf.nn.silu(norm(conv(x, b + "conv2d"), bn))
        bn = b + "tpu_batch_normalization_1"
    x = tf.nn.depthwise_conv2d(x, get(b + "depthwise_conv2d/depthwise_kernel"),
                               (1, stride, stride, 1), "SAME")
    x = tf.nn.silu(norm(x, bn))
    s = tf.reduce_mean(x, (1, 2), keepdims=True)
    s = tf.nn.silu(conv(s, b + "se/conv2d") + get(b + "se/conv2d/bias"))
    x *= tf.sigmoid(conv(s, b + "se/conv2d_1") + get(b + "se/conv2d_1/bias"))
    x = norm(conv(x, b + ("conv2d_1" if expand else "conv2d")),
             b + "tpu_batch_normalization_" + ("2" if expand else "1"))
    return x + start if skip else x
for size in sizes:
    height, width = map(int, size.split("x"))
    x = tf.constant(np.random.default_rng(0).normal(size=(1, height, width, 3)))
    x = tf.nn.silu(norm(conv(x, "stem/conv2d", 2), "stem/tpu_batch_normalization"))
    x = block(x, "blocks_0/", False, 1, False)
    x = block(x, "blocks_1/", True, 2, False)
    x = block(x, "blocks_2/", True, 1, True)
    np.save(size + ".npy", x.numpy())
'''


def test_the_first_layers_compute_what_tensorflow_does(tmp_path):
    """Stem and three blocks by tf.nn with SAME padding, in a process without PyTorch."""
    values = {name: theirs for name, (_, theirs, _) in variables('b0', 10).items()}
    write(tmp_path, {f'{name}{average}': value for name, value in values.items()
                     for average in ('', '/ExponentialMovingAverage')})
    sizes = ('64x64', '65x65', '63x66')
    done = subprocess.run([sys.executable, '-c', FORWARD, str(tmp_path / 'model.ckpt'), *sizes],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    network = EfficientNet('b0', out_indices=(2, )).double().eval()
    # The random variances are not all positive; both sides take their absolute values.
    state = {key.removeprefix('backbone.'): value.abs() if key.endswith('running_var') else value
             for key, value in load_weights(tmp_path).state.items() if 'head' not in key}
    network.load_state_dict(state)
    for size in sizes:
        height, width = map(int, size.split('x'))
        image = np.random.default_rng(0).normal(size=(1, height, width, 3))
        with torch.no_grad():
            ours, = network(torch.from_numpy(image).permute(0, 3, 1, 2))
        expected = torch.from_numpy(np.load(tmp_path / f'{size}.npy')).permute(0, 3, 1, 2)
        assert ours.shape == expected.shape
        assert peers.relative_difference(ours, expected) < 1e-9
