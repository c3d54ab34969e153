"""Exported files give what the network gives, at every size they allow, and say what they are."""
import copy
import errno
import json
import logging
import os
import pickle
import re
import resource
import runpy
import shutil
import signal
import subprocess
import tempfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmpretrain.datasets import CIFAR100
from peers import TINY, calibrated
from PIL import Image

import mmeffnet
from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.analysis.contenders import random_weights
from mmeffnet.arch import Arch
from mmeffnet.datasets.digit_images import digit_images
from mmeffnet.engine import cli as engine_cli
from mmeffnet.engine import run
from mmeffnet.errors import InputError, RunError
from mmeffnet.export import check, cli, formats, graph, quantize, runtime
from mmeffnet.export.evaluation import take_over
from mmeffnet.plugin import MIM, config_path

NEEDED = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'openvino': ('openvino', ),
          'torchscript': (), 'torch-export': ()}
FORMATS = [pytest.param(kind, marks=[] if all(map(find_spec, needed)) else pytest.mark.skip(
    reason='pip install "mmeffnet[export]"')) for kind, needed in NEEDED.items()]
# What differs little from one to the other; a plain pytest has the first.
ALIKE = [FORMATS[0], *(pytest.param(*kind.values, marks=[*kind.marks, pytest.mark.slow])
                       for kind in FORMATS[1:])]
ONNX = pytest.mark.skipif(not all(map(find_spec, NEEDED['onnx'])),
                          reason='pip install "mmeffnet[export]"')
TINY_FILES = ('tiny.py', 'tiny.pth')
SIZE = 65  # odd: each stride pads lopsidedly or evenly by turns


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config of B0 for eight classes at 65 px, a checkpoint, and pictures in two classes."""
    folder = tmp_path_factory.mktemp('export')
    torch.manual_seed(0)
    state = random_weights('b0')
    state['head.fc.weight'], state['head.fc.bias'] = torch.randn(8, 1280), torch.randn(8)
    classes = [f'kind {i}' for i in range(8)]
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=state, meta=meta), folder / 'b0.pth')
    # A network that exporters are done with sooner: every kind of block and every stride.
    backbone = calibrated(EfficientNet(arch=TINY))
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    state |= {'head.fc.weight': torch.randn(8, 32), 'head.fc.bias': torch.randn(8)}
    torch.save(dict(state_dict=state, meta=meta), folder / 'tiny.pth')
    (folder / 'tiny.py').write_text("_base_ = './small.py'\nmodel = dict(backbone=dict("
                                    f"arch={dict(_delete_=True, **TINY)!r}), "
                                    'head=dict(in_channels=32))')
    (folder / 'small.py').write_text(f'''
_base_ = [{config_path('efficientnet/efficientnet-b0_8xb32_in1k.py')!r}]
model = dict(head=dict(num_classes=8))
data_preprocessor = dict(num_classes=8)
test_pipeline = [dict(type='LoadImageFromFile'),
                 dict(type='EfficientNetCenterCrop', crop_size={SIZE}), dict(type='PackInputs')]
_data = dict(_delete_=True, type='CustomDataset', data_root='pictures', ann_file='labels.txt',
             pipeline=test_pipeline)
test_dataloader = dict(batch_size=3, num_workers=0, persistent_workers=False, dataset=_data)
val_dataloader = test_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
''')
    (folder / 'pictures').mkdir()
    lines = []
    for i, picture in enumerate(check.real_pictures()):
        for j in range(4):
            side = 120 + 30 * j
            picture.crop((80 * j, 0, 80 * j + side, side)).save(folder / f'pictures/{i}{j}.png')
            lines.append(f'{i}{j}.png {i + j}')
    (folder / 'pictures/labels.txt').write_text('\n'.join(lines))
    return folder


def export(folder, kind, name, *flags, of=('small.py', 'b0.pth')):
    """Export in this process: the path of the file."""
    out = folder / f'{name}{runtime.SUFFIXES[kind]}'
    cli.main([*(str(folder / one) for one in of), '--format', kind, '--out', str(out),
              '--pictures', str(folder / 'pictures'), *flags])
    return out


def plain(folder, kind):
    """B0 without flags, exported once for all tests that only read it."""
    path = folder / f'fixed{runtime.SUFFIXES[kind]}'
    return path if path.is_file() else export(folder, kind, 'fixed')


def classifier_of(folder, config='small.py', checkpoint='b0.pth'):
    from mmengine.config import Config
    return graph.read_classifier(Config.fromfile(folder / config), str(folder / checkpoint))


def ops(path):
    import onnx
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def axes(path):
    """Of the images that OpenVINO lets in; '?' are open."""
    from openvino import Core
    return str(Core().read_model(str(path)).inputs[0].partial_shape)


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)


@pytest.mark.parametrize('kind', FORMATS)
def test_a_file_gives_the_logits_of_the_network(kind, folder, capsys):
    path = export(folder, kind, 'fixed')
    said = capsys.readouterr().out
    assert re.search(r'65 x 65 px: logits within \S+ of the largest, best class equal on 8 of 8',
                     said)
    call, metadata = runtime.open_exported(path)
    classifier = classifier_of(folder)
    (row, *_) = check.compare(call, classifier, False, check.real_pictures())
    assert row.difference < 1e-4
    assert metadata['classes'] == [f'kind {i}' for i in range(8)]
    assert metadata['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert (metadata['size'], metadata['channels'], metadata['arch']) == ([65, 65], 'RGB', 'b0')


@pytest.mark.parametrize('kind', ALIKE)
def test_an_open_graph_is_right_at_other_sizes_and_batches_and_normalises(kind, folder, capsys):
    path = export(folder, kind, 'open', '--dynamic', 'batch,size', '--preprocess', of=TINY_FILES)
    said = capsys.readouterr().out
    assert len(re.findall(r'px: logits within', said)) == 1 + len(check.OTHER_SIZES)
    call, metadata = runtime.open_exported(path)
    assert metadata['normalised_inside']
    if kind == 'openvino':
        assert axes(path) == '[?,3,?,?]'
    images = torch.randint(0, 256, (3, 3, 77, 98), dtype=torch.uint8)
    classifier = classifier_of(folder, *TINY_FILES)
    with torch.no_grad():
        expected = classifier.network(check.prepared(images, classifier, False))
    assert (call(images) - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize('kind', ALIKE)
def test_half_precision_is_half_as_large_and_close(kind, folder, capsys):
    whole, half = plain(folder, kind), export(folder, kind, 'half', '--half')
    weights = [path.with_suffix('.bin') if kind == 'openvino' else path for path in (whole, half)]
    sizes = [path.stat().st_size for path in weights]
    assert sizes[1] < 0.6 * sizes[0]
    assert runtime.open_exported(half)[1]['precision'] == 'float16'


def test_logits_of_half_precision_are_float32(folder):
    network = classifier_of(folder, *TINY_FILES).deployed(False, half=True)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float16}
    assert network(torch.zeros(1, 3, SIZE, SIZE)).dtype == torch.float32


@ONNX
def test_a_fixed_graph_has_no_arithmetic_of_shapes_and_no_folded_batchnorm(folder):
    """C60 and C61."""
    counts = ops(plain(folder, 'onnx'))
    assert not {'Shape', 'Gather', 'Slice', 'BatchNormalization', 'Mod', 'If'} & counts.keys()
    assert counts['Conv'] == 81
    assert not any(op.startswith(('Python', 'aten', 'Aten')) for op in counts)


@pytest.mark.parametrize('kind', FORMATS)
def test_the_test_tool_evaluates_a_file_like_the_checkpoint(kind, folder):
    path = export(folder, kind, 'tested', '--dynamic', 'batch', of=TINY_FILES)
    if kind == 'openvino':
        assert axes(path) == '[?,3,65,65]'
    results = []
    for name in (folder / 'tiny.pth', path):
        out = folder / f'{Path(name).name}.json'
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            str(folder / 'tiny.py'), str(name), '--work-dir', 'tested', '--out', str(out),
            '--out-item', 'metrics']))
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1]


@pytest.mark.slow
@ONNX
@pytest.mark.filterwarnings('ignore')
def test_int8_is_a_quarter_and_tells_what_is_lost(folder, capsys):
    whole = plain(folder, 'onnx')
    capsys.readouterr()
    before = logging.getLogger().level
    path = export(folder, 'onnx', 'int8', '--int8', '--calib', str(folder / 'pictures'))
    assert path.stat().st_size < 0.35 * whole.stat().st_size
    assert re.search(r'best class equal on \d of 8 pictures', capsys.readouterr().out)
    assert 'QuantizeLinear' in ops(path)
    assert runtime.open_exported(path)[1]['precision'] == 'int8'
    # ONNX Runtime's advice is muted, and nothing else of this process.
    assert logging.getLogger().level == before


@ONNX
@pytest.mark.filterwarnings('ignore')
def test_weights_of_8_bits_have_seven_and_a_scale_for_each_channel(folder):
    """The products of two of eight overflow 16 bits, where a processor adds them up in these."""
    import onnx
    path = export(folder, 'onnx', 'seven', '--int8', '--calib', 'pictures', of=TINY_FILES)
    found = {one.name: onnx.numpy_helper.to_array(one)
             for one in onnx.load(str(path)).graph.initializer}
    kernels = [one for name, one in found.items() if one.dtype == 'int8' and one.ndim == 4]
    assert kernels
    assert max(abs(kernel.astype(int)).max() for kernel in kernels) == 64
    scales = {scale.size for name, scale in found.items() if 'scale' in name and scale.ndim}
    assert {len(kernel) for kernel in kernels} <= scales


@ONNX
@pytest.mark.parametrize('activation', ['Swish', pytest.param('ReLU6', marks=pytest.mark.slow)])
def test_few_numbers_of_an_unbounded_activation_are_out_of_its_range(activation, folder,
                                                                     monkeypatch):
    import onnx
    files = model_of(folder, activation, backbone=dict(act_cfg=dict(type=activation)))
    widths = []
    for rare in (1e-6, 20):
        monkeypatch.setattr(quantize, 'RARE', rare)
        path = export(folder, 'onnx', f'rare_{activation}', '--int8', '--calib', 'pictures',
                      of=files)
        scales = [onnx.numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer
                  if 'scale' in one.name]
        widths.append(sum(float(scale) for scale in scales if not scale.ndim))
    assert (widths[1] < 0.8 * widths[0]) is (activation == 'Swish')
    assert (widths[1] == widths[0]) is (activation == 'ReLU6')


def line(capsys, *argv, code=2, of=('small.py', 'b0.pth')):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*of, *argv])
    assert exit_.value.code == code
    return capsys.readouterr().err.strip().splitlines()[-1]


def model_of(folder, name, state=None, **model):
    """Tiny with another part, and a checkpoint of it."""
    (folder / f'{name}.py').write_text(f"_base_ = './tiny.py'\nmodel = dict(**{model!r})\n")
    content = torch.load(folder / 'tiny.pth')
    content['state_dict'].update(state or {})
    torch.save(content, folder / f'{name}.pth')
    return f'{name}.py', f'{name}.pth'


def test_another_head_is_named(folder, capsys):
    files = model_of(folder, 'stacked', head=dict(
        _delete_=True, type='StackedLinearClsHead', num_classes=8, in_channels=32,
        mid_channels=[16]))
    assert "model.head.type='StackedLinearClsHead': what can be" in line(capsys, of=files)
    said = evaluated(capsys, 'any.torchscript', config=files[0])
    assert 'with a linear head, and model.head StackedLinearClsHead is none' in said


def test_weights_that_are_no_numbers_are_named(folder, capsys):
    files = model_of(folder, 'nan', {'head.fc.bias': torch.full((8, ), torch.nan)})
    assert "nan.pth: the network's output is no number" in line(capsys, of=files)


def test_names_of_another_number_of_classes_are_named(folder, capsys):
    from mmengine.config import Config
    files = model_of(folder, 'few')
    content = torch.load('few.pth')
    content['meta'] = dict(dataset_meta=dict(classes=['cat', 'dog']))
    torch.save(content, 'few.pth')
    said = line(capsys, of=files)
    assert 'few.pth: dataset_meta.classes has 2 names and the classifier 8 classes' in said
    Path('eight').write_text('\n'.join('abcdefgh'))
    cfg = Config.fromfile(files[0])
    assert graph.read_classifier(cfg, files[1], 'eight').names == tuple('abcdefgh')


def test_a_network_that_gives_only_zeros_is_itself(folder):
    classifier = classifier_of(folder, *TINY_FILES)
    for parameter in classifier.network.fc.parameters():
        parameter.zero_()
    (row, ) = check.compare(classifier.network, classifier, False, check.real_pictures())
    assert row.difference == 0


@pytest.mark.parametrize('change', [
    lambda logits: logits - 1e-3 * logits.abs().max(), lambda logits: logits * torch.nan],
    ids=['less', 'nan'])
def test_logits_a_little_off_and_no_numbers_are_refused(folder, change):
    classifier = classifier_of(folder, *TINY_FILES)
    with pytest.raises(RunError, match='is not the network: at 65 x 65 px'):
        check.compare(lambda images: change(classifier.network(images)), classifier, False,
                      check.real_pictures())


def test_what_8_bits_lose_is_counted_in_the_classes_of_the_file(folder):
    classifier = classifier_of(folder, *TINY_FILES)
    (row, ) = check.compare(lambda images: -classifier.network(images), classifier, False,
                            check.real_pictures(), precision='int8')
    assert (row.same_class, row.pictures, row.allowed) == (0, 2, None)


def test_another_neck_is_named_and_not_taken_for_a_mean(folder, capsys):
    files = model_of(folder, 'gem', {'neck.p': torch.full((1, ), 3.)},
                     neck=dict(_delete_=True, type='GeneralizedMeanPooling'))
    assert 'model.neck GeneralizedMeanPooling and model.head' in line(capsys, of=files)


def test_no_neck_is_named_where_the_head_does_not_fit_without_one(folder, capsys):
    files = model_of(folder, 'no_neck', {}, neck=None)
    assert 'model.neck None and model.head EfficientNetHead: what can be' in line(capsys, of=files)


def test_other_channels_are_named(folder, capsys):
    gray = model_of(folder, 'gray', {'backbone.layers.0.conv.weight': torch.randn(8, 1, 3, 3)},
                    backbone=dict(in_channels=1))
    assert 'model.backbone.in_channels=1: what can be exported takes RGB' in line(capsys, of=gray)


BGR = ('data_preprocessor.to_rgb=False', 'data_preprocessor.mean=[90,120,150]',
       'data_preprocessor.std=[40,60,80]')
ONE_FOR_ALL = 'data_preprocessor.mean=[120]', 'data_preprocessor.std=[60]'


@pytest.mark.parametrize(('options', 'mean', 'std'), [
    (BGR, [150, 120, 90], [80, 60, 40]), (ONE_FOR_ALL, [120] * 3, [60] * 3)], ids=['bgr', 'one'])
def test_a_network_of_bgr_becomes_one_of_rgb(folder, options, mean, std):
    """Its outputs are those of mmpretrain's own model, which is given what is read."""
    from mmengine.config import Config, DictAction
    from mmengine.registry import MODELS
    cfg = Config.fromfile('tiny.py')
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in
                         (option.split('=') for option in options)})
    classifier = graph.read_classifier(cfg, 'tiny.pth')
    assert classifier.metadata(False) | dict(mean=mean, std=std, channels='RGB') == (
        classifier.metadata(False))
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}).eval()
    model.load_state_dict(torch.load('tiny.pth')['state_dict'], strict=False)
    draw = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=draw)
    inputs = model.data_preprocessor(dict(inputs=rgb.flip(1), data_samples=None))['inputs']
    with torch.no_grad():
        expected = model.double()(inputs.double(), mode='tensor')
        given = classifier.network.double()(check.prepared(rgb, classifier, False).double())
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def pipeline(*steps, **loading):
    return [dict(type='LoadImageFromFile', **loading),
            dict(type='EfficientNetCenterCrop', crop_size=SIZE), *steps, dict(type='PackInputs')]


TO_RGB, TO_BGR = dict(type='mmpretrain.ToPIL', to_rgb=True), dict(type='PILToNumpy', to_bgr=True)
AS_IT_IS = dict(type='PILToNumpy')


@pytest.mark.parametrize(('dataset', 'rgb'), [
    (dict(pipeline=pipeline()), False), (dict(pipeline=pipeline(TO_RGB, AS_IT_IS)), True),
    (dict(pipeline=pipeline(TO_RGB, TO_BGR)), False), (dict(type='CIFAR10'), True),
    (dict(pipeline=pipeline(dict(type='NumpyToPIL', to_rgb=True),
                            dict(type='ToNumpy', to_bgr=True))), False),
    (dict(type='CIFAR10', pipeline=pipeline()), False),
    (dict(pipeline=pipeline(imdecode_backend='tifffile')), True), (None, False),
    (dict(type='KFoldDataset', dataset=dict(type='CIFAR10')), True), (dict(type=CIFAR100), True),
    (dict(type='ConcatDataset', datasets=[dict(pipeline=pipeline()), dict()]), False)])
def test_the_order_of_images_is_followed_through_the_pipeline(dataset, rgb):
    assert runtime.tests_rgb(dict(test_dataloader=dict(dataset=dataset))) is rgb


@pytest.mark.parametrize('turns', [False, True])
def test_the_order_that_mmengines_own_preprocessor_gives_is_known(turns):
    from mmengine.model import ImgDataPreprocessor
    preprocessor = ImgDataPreprocessor(bgr_to_rgb=turns)
    assert [runtime.takes_bgr(preprocessor, rgb) for rgb in (False, True)] == [not turns, turns]


@pytest.mark.parametrize(('one', 'words'), [
    (dict(type='CIFAR10'), 'some of its data sets give RGB and others BGR'),
    (dict(pipeline=[dict(type='Normalize')]), 'Normalize is in no exported file'),
    (dict(pipeline=[dict(type='torchvision/ToTensor')]), 'torchvision/ToTensor is in no exported'),
    (dict(pipeline=[dict(type='mmpretrain.Albumentations', transforms=[
        dict(type='OneOf', transforms=[dict(type='Normalize')])])]), 'Normalize is in no'),
    (dict(pipeline=[dict(type='RandomChoice', transforms=[[dict(type='Normalize')]])]),
     'Normalize is in no'),
    (dict(pipeline=[dict(type='KeyMapper', transforms=dict(type='Normalize'))]),
     'Normalize is in no')])
def test_orders_that_are_not_one_are_refused(one, words):
    joined = dict(type='ConcatDataset', datasets=[one, dict(pipeline=pipeline())])
    with pytest.raises(InputError, match=words):
        runtime.tests_rgb(dict(test_dataloader=dict(dataset=joined)))


@pytest.mark.parametrize('to_rgb', [False, True])
def test_a_pipeline_that_tests_rgb_gives_the_same_logits(folder, to_rgb):
    """Those of mmpretrain's own model, by the file, in its place, and of what --int8 looks at."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, TRANSFORMS
    cfg = Config.fromfile('tiny.py')
    cfg.data_preprocessor.update(to_rgb=to_rgb, mean=[90, 120, 150], std=[40, 60, 80])
    cfg.test_dataloader.dataset.pipeline = pipeline(TO_RGB, AS_IT_IS)
    classifier = graph.read_classifier(cfg, 'tiny.pth')
    images = torch.stack(quantize.images(cfg, 'pictures', (SIZE, SIZE)))
    assert images.equal(torch.stack(quantize.images(
        Config.fromfile('tiny.py'), 'pictures', (SIZE, SIZE))))
    seen = []
    for path in check.pictures_below('pictures', '--pictures'):
        data = dict(img_path=str(path))
        for step in cfg.test_dataloader.dataset.pipeline:
            data = TRANSFORMS.build(step)(data)
        seen.append(data['inputs'])
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}).eval()
    model.load_state_dict(torch.load('tiny.pth')['state_dict'], strict=False)
    inputs = model.data_preprocessor(dict(inputs=seen, data_samples=None))['inputs']
    path = folder / 'rgb.torchscript'
    formats.write(classifier.deployed(True), path, 'torchscript', classifier.size,
                  metadata=classifier.metadata(True, dynamic=['batch', 'size']))
    with torch.no_grad():
        expected = model(inputs, mode='tensor')
        assert expected.std(dim=0).max() > 1e-2  # pictures are told apart
        given = classifier.network(check.prepared(images, classifier, False))
        take_over(model, path, cfg)
        for logits in (given, model(inputs, mode='tensor')):
            torch.testing.assert_close(logits, expected, rtol=0,
                                       atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(('steps', 'words'), [
    (pipeline(dict(type='NoSuch')), 'NoSuch is not in the'),
    (pipeline(foo=1), r"'foo' \(in the config: test_dataloader.dataset.pipeline.0.foo\)"),
    (pipeline()[:-1], 'gives no inputs: let it end with PackInputs'),
    (pipeline()[1:], "EfficientNetCenterCrop of the test pipeline fails on 'pictures/00.png': .*"
     'begin with LoadImageFromFile'),
    (pipeline(dict(type='Normalize', mean=[0], std=[1])), 'Normalize is in no exported file'),
    ([], 'is not in the config'),
    (pipeline(dict(type='CenterCrop', crop_size=0)), 'CenterCrop of the test pipeline cannot be '
     "built: AssertionError, of one of its arguments: .*'crop_size': 0"),
    (pipeline(color_type='grayscale'), 'gives images of shape 1 x 65 x 65 and the file takes 3 '
     'channels x height x width: let it read them in colour')],
    ids=['name', 'argument', 'pack', 'load', 'normalize', 'none', 'assertion', 'grey'])
def test_a_pipeline_that_gives_no_images_is_named(steps, words):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=steps))))
    with pytest.raises(InputError, match=words):
        quantize.images(cfg, 'pictures', (SIZE, SIZE))


def test_pictures_for_int8_go_through_the_pipeline_of_wrapped_data_sets(folder):
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    one = dict(type='CustomDataset', pipeline=pipeline())
    for dataset in (dict(type='RepeatDataset', times=2, dataset=one),
                    dict(type='ConcatDataset', datasets=[one, copy.deepcopy(one)])):
        cfg = dict(test_dataloader=dict(dataset=dataset))
        found = quantize.images(cfg, 'pictures', (SIZE, SIZE))
        assert {image.shape for image in found} == {(3, SIZE, SIZE)}
    dataset['datasets'][1]['pipeline'][1]['crop_size'] = 2 * SIZE
    with pytest.raises(InputError, match='have different pipelines'):
        quantize.images(cfg, 'pictures', (SIZE, SIZE))


def test_a_torn_picture_for_int8_is_named(tmp_path):
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    (tmp_path / 'torn.png').write_bytes(Path('pictures/00.png').read_bytes()[:100])
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=pipeline())))
    with pytest.raises(InputError, match=r"fails on '.*torn\.png': .*; repair the file or take it "
                                         'out of the folder'):
        quantize.images(cfg, str(tmp_path), (SIZE, SIZE))


@pytest.mark.parametrize(('steps', 'words'), [
    (pipeline(imdecode_backend='nonsense'), 'nonsense is not supported.*'),
    (pipeline(color_type='nonsense'), 'KeyError: nonsense'),
    (pipeline(backend_args=dict(backend='nonsense')), 'KeyError: nonsense'),
    ([dict(type='LoadAnnotations'), *pipeline()], 'LoadAnnotations of .*KeyError: instances')])
def test_a_step_that_cannot_load_a_whole_picture_is_not_blamed_on_the_picture(steps, words):
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=steps)))
    with pytest.raises(InputError, match=f'{words}; the picture is whole: change this step of '
                                         'test_dataloader.dataset.pipeline'):
        quantize.images(cfg, 'pictures', (SIZE, SIZE))


def test_a_step_that_gives_nothing_is_named():
    with pytest.raises(InputError, match="fails on 'pictures/00.png': it gives nothing$"):
        quantize._through([lambda data: data | dict(img=1), lambda data: None],
                          Path('pictures/00.png'))


@pytest.mark.parametrize('raw', [False, True])
def test_pictures_of_floats_become_what_the_file_takes(folder, raw):
    whole = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    classifier = classifier_of(folder, *TINY_FILES)
    ours, theirs = quantize._arrays([whole, whole.double()], classifier, raw)
    assert ours.dtype == theirs.dtype == ('uint8' if raw else 'float32')
    assert (ours == theirs).all()


def test_pictures_for_int8_are_spread_over_all_of_the_folder(tmp_path, monkeypatch):
    for i in range(7):
        (tmp_path / f'{i}.png').touch()
    read = []
    monkeypatch.setattr(quantize, 'MOST', 3)
    monkeypatch.setattr(quantize, '_through', lambda steps, path: read.append(path.stem) or
                        torch.zeros(3, SIZE, SIZE))
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=pipeline()[:1])))
    assert len(quantize.images(cfg, str(tmp_path), (SIZE, SIZE))) == 3
    assert read == ['0', '2', '4']


def test_what_is_opened_is_put_there_last(tmp_path, monkeypatch):
    """A file that is there is whole, with what belongs to it."""
    for name in ('made/a.xml', 'made/b.bin', 'out'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name == 'out' else (tmp_path / name).write_text(name)
    put, replace = [], Path.replace
    monkeypatch.setattr(Path, 'replace',
                        lambda part, path: put.append(path.name) or replace(part, path))
    formats.put(tmp_path / 'made/a.xml', tmp_path / 'out')
    assert put == ['b.bin', 'a.xml']


def test_a_second_file_that_finds_no_place_leaves_the_first_as_it_was(tmp_path, monkeypatch):
    for name in ('made/a.xml', 'made/a.bin', 'out/a.xml', 'out/a.bin'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    copied, copyfile = [], shutil.copyfile

    def full(source, part):
        copied.append(source)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device')
        copyfile(source, part)
    monkeypatch.setattr(shutil, 'copyfile', full)
    with pytest.raises(InputError, match=r"a\.xml' cannot be written: No space left on device"):
        formats.put(tmp_path / 'made/a.xml', tmp_path / 'out')
    found = {path.name: path.read_text() for path in (tmp_path / 'out').iterdir()}
    assert found == {'a.xml': 'out/a.xml', 'a.bin': 'out/a.bin'}


def test_a_kill_between_two_files_leaves_no_pair_of_two_exports(tmp_path, monkeypatch):
    """An old graph opens beside new weights, and its logits are off."""
    for name in ('made/a.xml', 'made/a.bin', 'out/a.xml', 'out/a.bin'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    replace = Path.replace

    def killed(part, path):
        replace(part, path)
        raise KeyboardInterrupt
    monkeypatch.setattr(Path, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        formats.put(tmp_path / 'made/a.xml', tmp_path / 'out')
    found = {path.name: path.read_text() for path in (tmp_path / 'out').iterdir()}
    assert found == {'a.bin': 'made/a.bin'}


def test_what_killed_exports_left_of_a_file_goes_with_the_next(tmp_path):
    for name in ('made', 'out'):
        (tmp_path / name).mkdir()
    (tmp_path / 'made/a.onnx').touch()
    gone = subprocess.Popen(['true'])
    gone.wait()
    parts = {name: tmp_path / f'out/.{name}.part' for name in (
        f'a.onnx.{gone.pid}-1', f'a.onnx.{gone.pid}-new', f'a.onnx.{os.getpid()}-2',
        f'b.onnx.{gone.pid}-3', 'a.onnx.other-4')}
    for name, part in parts.items():
        part.touch()
        if 'new' not in name:
            os.utime(part, (0, 0))
    formats.put(tmp_path / 'made/a.onnx', tmp_path / 'out')
    assert [name for name, part in parts.items() if not part.exists()] == [f'a.onnx.{gone.pid}-1']


class Small(torch.nn.Module):
    """The least that every format takes."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 4096)

    def forward(self, images):
        return self.fc(images.mean((2, 3)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', [kind for kind in FORMATS if kind.values[0] in (
    'onnx', 'openvino')])
def test_axes_and_output_have_names(kind, tmp_path):
    path = tmp_path / f'small{runtime.SUFFIXES[kind]}'
    formats.WRITERS[kind](Small().eval(), torch.zeros(2, 3, 64, 64), path, ('batch', 'size'), '{}')
    if kind == 'openvino':
        from openvino import Core
        model = Core().read_model(str(path))
        assert [one.get_names() for one in (*model.inputs, *model.outputs)] == [
            {'images'}, {'logits'}]
        return
    import onnx
    graph_ = onnx.load(path).graph
    named = {one.name: [axis.dim_param or axis.dim_value for axis in
                        one.type.tensor_type.shape.dim] for one in (*graph_.input, *graph_.output)}
    assert named == dict(images=['batch', 3, 'height', 'width'], logits=['batch', 4096])


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', FORMATS)
def test_a_full_disk_is_an_error_of_python_in_every_format(kind, tmp_path):
    """PyTorch's own writer ends the process."""
    path = tmp_path / f'small{runtime.SUFFIXES[kind]}'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError, match='File too large|OpenVINO cannot write it'):
            formats.WRITERS[kind](Small().eval(), torch.zeros(1, 3, 8, 8), path, (), '{}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_temporary_folder_that_is_full_is_named(monkeypatch, tmp_path, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setitem(formats.WRITERS, 'torchscript', full)
    said = line(capsys, '--format', 'torchscript', '--out', 'full.torchscript', of=TINY_FILES)
    assert said == (f"error: the temporary folder '{tmp_path}', where a file is made first, cannot "
                    'be written to: No space left on device: free space there, or name another '
                    'folder by TMPDIR=FOLDER')
    assert not [*tmp_path.iterdir()]


def test_sigterm_leaves_no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)

    def ended(args):
        with cli._scratch() as folder:
            (folder / 'model.onnx').touch()
            signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(cli, 'export', ended)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*TINY_FILES])
    assert exit_.value.code == 143
    assert not [*tmp_path.iterdir()]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('flags', [['--preprocess'], []], ids=str)
def test_the_test_tool_gives_a_file_rgb_whatever_the_config_has(folder, flags):
    path = export(folder, 'torchscript', 'order', *flags, '--cfg-options', *BGR, of=TINY_FILES)
    scores = []
    for weights in ('tiny.pth', str(path)):
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            'tiny.py', weights, '--work-dir', 'x', '--out', 'order.pkl', '--cfg-options', *BGR]))
        scores.append(torch.stack([one['pred_score'] for one in
                                   pickle.loads(Path('order.pkl').read_bytes())]))
    assert scores[0].std(dim=0).max() > 1e-2  # pictures are told apart
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


PADDED = ('data_preprocessor.pad_size_divisor=32', 'data_preprocessor.pad_value=7', *BGR)


def test_images_that_are_padded_are_evaluated_as_the_checkpoint_does(folder, capsys):
    """Or not at all: the value of padding is one of normalised images, and no pixel."""
    paths = [export(folder, 'torchscript', 'padded', '--size', '96', *flags, '--cfg-options',
                    *PADDED, of=TINY_FILES).rename(f'padded{len(flags)}.torchscript')
             for flags in ([], ['--preprocess'])]
    scores = []
    for weights in ('tiny.pth', str(paths[0])):
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            'tiny.py', weights, '--work-dir', 'x', '--out', 'padded.pkl', '--cfg-options',
            *PADDED]))
        scores.append(torch.stack([one['pred_score'] for one in
                                   pickle.loads(Path('padded.pkl').read_bytes())]))
    assert scores[0].std(dim=0).max() > 1e-2  # pictures are told apart
    torch.testing.assert_close(*scores, rtol=0, atol=1e-4)
    assert 'pads normalised images (pad_size_divisor, or unequal images in a batch): export it' in (
        evaluated(capsys, str(paths[1]), '--cfg-options', *PADDED))
    assert 'pad_size_divisor=32 pads images of 65 px to 96, which no file does: give --size 96' in (
        line(capsys, '--cfg-options', *PADDED, of=TINY_FILES))


@ONNX
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_the_recipe_of_the_docs_works(folder, tmp_path, monkeypatch, capsys):
    """With weights that nobody trained, and four digits."""
    monkeypatch.chdir(tmp_path)
    text = Path(mmeffnet.__file__).parents[1].joinpath('docs/export.md').read_text()
    recipe = text[text.index('## Eight bits'):]
    files = re.search(r'```python\n(.*?)```', recipe, re.S)[1]
    train, exporting, testing = re.findall(r'^python tools/\w+.py (.*)$', recipe, re.M)[:3]
    config, = train.split()
    Path('files.py').write_text(files)
    argv = exporting.split()
    Path(argv[1]).parent.mkdir(parents=True)
    content = torch.load(folder / 'b0.pth')
    content['state_dict'] |= {'head.fc.weight': torch.randn(10, 1280),
                              'head.fc.bias': torch.randn(10)}
    content['meta'] = {}
    torch.save(content, argv[1])
    Path('digits').mkdir()
    for i, image in enumerate(digit_images('train')[0][:4]):
        Image.fromarray(image).save(f'digits/{i}.png')
    cli.main(argv)
    assert re.search(r'64 x 64 px: .* best class equal on \d of 4', capsys.readouterr().out)
    assert testing.split()[0] == config
    run.test(engine_cli.parse(engine_cli.test_parser(), [
        config_path(config.removeprefix('configs/')), testing.split()[1], '--work-dir', 'x',
        '--out', 'digits.json', '--out-item', 'metrics', '--cfg-options',
        'test_dataloader.dataset.indices=8']))
    assert 0 <= json.loads(Path('digits.json').read_text())['accuracy/top1'] <= 100


def test_a_file_says_which_network_it_is(folder):
    """What is no published variant is stated whole."""
    assert Arch.from_dict(classifier_of(folder, *TINY_FILES).arch) == Arch.from_dict(TINY)
    scaling = dict(type='mmeffnet.ModelScaling', width=0.25, depth=0.5)
    net = EfficientNet(arch='b0', scaling=scaling)
    (folder / 'scaled.py').write_text(
        f"_base_ = './small.py'\nmodel = dict(backbone=dict(scaling={scaling!r}), "
        f'head=dict(arch=None, in_channels={net.arch.head}))')
    state = {f'backbone.{key}': value for key, value in calibrated(net).state_dict().items()}
    state |= {'head.fc.weight': torch.randn(8, net.arch.head), 'head.fc.bias': torch.randn(8)}
    torch.save(dict(state_dict=state), folder / 'scaled.pth')
    told = classifier_of(folder, 'scaled.py', 'scaled.pth').metadata(False)['arch']
    assert Arch.from_dict(json.loads(json.dumps(told))) == net.arch


@pytest.mark.parametrize('name', ['weights.bin', 'link.bin'])
def test_a_second_file_takes_the_place_of_no_checkpoint(capsys, tmp_path, name):
    weights = tmp_path / 'weights.bin'
    weights.write_bytes(Path('tiny.pth').read_bytes())
    (tmp_path / 'link.bin').symlink_to(weights)
    said = line(capsys, '--format', 'openvino', '--out', str(tmp_path / name.replace('bin', 'xml')),
                of=('tiny.py', str(weights)))
    assert f"would overwrite the checkpoint '{tmp_path / name}'" in said
    assert weights.read_bytes() == Path('tiny.pth').read_bytes()


@pytest.mark.parametrize('theirs', [None, '<net/>'])
def test_a_second_file_takes_the_place_of_none_but_ours(capsys, tmp_path, theirs):
    (tmp_path / 'other.bin').write_text('other')
    if theirs:
        (tmp_path / 'other.xml').write_text(theirs)
    said = line(capsys, '--format', 'openvino', '--out', str(tmp_path / 'other.xml'),
                of=TINY_FILES)
    assert f"would overwrite '{tmp_path / 'other.bin'}'" in said
    assert (tmp_path / 'other.bin').read_text() == 'other'


@pytest.mark.skipif(not find_spec('openvino'), reason='pip install "mmeffnet[export]"')
def test_our_own_second_file_is_replaced(folder):
    path = export(folder, 'openvino', 'again', of=TINY_FILES)
    argv = [*TINY_FILES, '--format', 'openvino', '--out', str(path)]
    assert cli._out(cli.parser().parse_args(argv)) == path
    assert axes(path) == '[1,3,65,65]'


@pytest.mark.skipif(not all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime', 'openvino'))),
                    reason='pip install "mmeffnet[export]"')
@pytest.mark.slow
def test_the_benchmark_prints_its_table(monkeypatch, capsys):
    """At 64 px, two rounds."""
    monkeypatch.setattr(type(VARIANTS['b0']), 'resolution', 64)
    monkeypatch.setattr('sys.argv', ['benchmark_export.py', '--rounds', '2'])
    runpy.run_path(str(MIM / 'tools/benchmark_export.py'), run_name='__main__')
    rows = re.findall(r'^\| ([^|]+) \| [\d.]+ \| [\d.]+ to [\d.]+ \| ([\d.]+) \|$',
                      capsys.readouterr().out, re.M)
    assert rows[0] == ('mmpretrain, eager', '1.00')
    assert [name for name, _ in rows[1:]] == [
        'mmeffnet, eager', 'mmeffnet, deployed, channels last', 'ONNX Runtime', 'OpenVINO']


def test_the_benchmark_refuses_variants_that_mmpretrain_has_not(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['benchmark_export.py', '--variant', 'lite0'])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(MIM / 'tools/benchmark_export.py'), run_name='__main__')
    assert exit_.value.code == 2
    assert "invalid choice: 'lite0'" in capsys.readouterr().err


def test_another_norm_stays_a_layer(folder):
    net = EfficientNet(arch=TINY, norm_cfg=dict(type='GN', num_groups=2))
    files = model_of(folder, 'gn', {f'backbone.{k}': v for k, v in net.state_dict().items()},
                     backbone=dict(norm_cfg=dict(type='GN', num_groups=2)))
    content = torch.load(files[1])
    known = {f'backbone.{key}' for key in net.state_dict()} | {'head.fc.weight', 'head.fc.bias'}
    content['state_dict'] = {k: v for k, v in content['state_dict'].items() if k in known}
    torch.save(content, files[1])
    call, _ = runtime.open_exported(export(folder, 'torch-export', 'gn', of=files))
    assert check.compare(call, classifier_of(folder, *files), False, check.real_pictures())


@ONNX
@pytest.mark.parametrize(('flags', 'words', 'code'), [
    (['--int8', '--calib', 'empty'], "--calib 'empty' has no pictures", 2),
    (['--int8', '--calib', 'tiny.py'], "--calib 'tiny.py' is no folder", 2),
    (['--int8', '--calib', 'pictures', '--size', '97'],
     '--calib: the test pipeline gives images of 65 x 65 px and the file takes 97 x 97', 2),
    (['wrong'], 'the exported file is not the network', 1)])
def test_an_error_leaves_what_was_there(folder, capsys, monkeypatch, flags, words, code):
    Path('empty').mkdir(exist_ok=True)
    for name in ('kept.onnx', 'kept.bin'):
        Path(name).write_text('other')
    if flags == ['wrong']:
        spoil(monkeypatch)
        flags = []
    assert words in line(capsys, '--out', 'kept.onnx', *flags, of=TINY_FILES, code=code)
    assert {Path(name).read_text() for name in ('kept.onnx', 'kept.bin')} == {'other'}


def test_checkpoints_keep_what_tells_them_apart(folder, capsys):
    made = []
    for name in ('net_v1.2.pth', 'net_v1.3.pth'):
        Path(name).write_bytes(Path('tiny.pth').read_bytes())
        cli.main(['tiny.py', name, '--format', 'torchscript', '--pictures', 'pictures'])
        made.append(capsys.readouterr().out.split()[-3])
    assert made == [f'work_dirs/tiny/net_v1.{i}.torchscript' for i in (2, 3)]
    assert all(Path(path).is_file() for path in made)
    args = cli.parser().parse_args(['tiny.py', 'timm://tf_efficientnet_b0.aa_in1k'])
    assert cli._out(args).name == 'tf_efficientnet_b0.aa_in1k.onnx'


def test_a_pipeline_that_ends_with_no_square_needs_a_size_and_takes_one(folder, capsys):
    (folder / 'wide.py').write_text(
        "_base_ = './tiny.py'\ntest_dataloader = dict(dataset=dict(pipeline=["
        "dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64)), "
        "dict(type='PackInputs')]))")
    files = 'wide.py', 'tiny.pth'
    assert 'give --size' in line(capsys, of=files)
    path = export(folder, 'torchscript', 'wide', '--size', '64', '96', of=files)
    assert runtime.open_exported(path)[1]['size'] == [64, 96]


def test_an_open_size_is_written_and_compared_above_a_larger_stride(monkeypatch):
    """Of 128 px: where the last map is one pixel, exporters take it for one of every size."""
    stages = {f'stage{i}': dict(block='fused', kernel=3, stride=2, expand=1, channels=8, repeats=1)
              for i in range(6)}
    net = calibrated(EfficientNet(arch=dict(stem=8, head=8, stages=stages)), size=300).float()
    network = graph.Exportable(net, torch.nn.Linear(8, 2)).eval().requires_grad_(False)
    examples = []
    monkeypatch.setitem(formats.WRITERS, 'onnx', lambda net, images, *_: examples.append(images))
    formats.write(network, Path('net.onnx'), 'onnx', (65, 300), ('size', ))
    assert examples[0].shape == (1, 3, 256, 300)
    classifier = graph.Classifier(network=network, size=(65, 300), mean=(0., ) * 3,
                                  std=(255., ) * 3, names=('a', 'b'), arch={})
    rows = check.compare(network, classifier, False, check.real_pictures(), ('size', ))
    assert [row.size for row in rows] == [(65, 300), (129, 299), (129, 268), (129, 333),
                                          (129, 365)]


@ONNX
@pytest.mark.parametrize('side', [16, pytest.param(32, marks=pytest.mark.slow)])
def test_an_open_size_may_be_smaller_than_the_stride(folder, side):
    path = export(folder, 'onnx', 'small', '--dynamic', 'size', '--size', str(side),
                  of=TINY_FILES)
    assert runtime.open_exported(path)[1]['size'] == [side, side]


def test_a_file_that_does_not_run_is_named(folder, capsys):
    """PyTorch's exporter makes of one pixel another graph than of more."""
    said = line(capsys, '--format', 'torch-export', '--dynamic', 'size', '--size', '32', '--out',
                'one.pt2', of=TINY_FILES, code=1)
    assert 'the exported file does not run at 32 x 32 px' in said
    assert not Path('one.pt2').exists()


@pytest.mark.parametrize(('flags', 'words'), [
    (['--out', 'b0.pth/x.onnx'], "cannot be written: '"), (['--out', 'taken.onnx'], 'is a folder'),
    (['--cfg-options', 'foo'], '--cfg-options takes KEY=VALUE pairs'),
    (['--out', 'x.pt2'], 'a file of --format onnx ends with .onnx'),
    (['--dynamic', 'width'], "--dynamic 'width' must be of batch and size"),
    (['--size', '1', '2', '3'], 'give a height and a width in pixels'),
    (['--size', '0'], '--size 0: give a height and a width in pixels'),
    (['--int8'], '--int8 and --calib FOLDER belong together'),
    (['--int8', '--calib', 'pictures', '--dynamic', 'size'], 'for images of one size'),
    (['--format', 'torchscript', '--int8', '--calib', 'pictures'], 'written as --format onnx'),
    (['--pictures', 'nowhere'], "--pictures 'nowhere' is no folder"),
    (['--out', 300 * 'x' + '.onnx'], 'cannot be written: File name too long'),
    (['--out', 230 * 'x' + '.onnx'], 'cannot be written: File name too long'),
    (['--classes', 'labels'], "class file 'labels' cannot be read")])
def test_wrong_flags_are_named(flags, words, capsys):
    Path('taken.onnx').mkdir(exist_ok=True)
    assert words in line(capsys, *flags)


def test_a_model_that_is_no_classifier_on_our_backbone_is_named(capsys):
    said = line(capsys, '--cfg-options', 'model.backbone.type=mmpretrain.EfficientNet')
    assert ("model.backbone.type='mmpretrain.EfficientNet': what can be exported is an image "
            'classifier with mmeffnet.EfficientNet') in said


def spoil(monkeypatch):
    deployed = graph.Classifier.deployed

    def wrong(self, *args):
        network = deployed(self, *args)
        network.fc.bias.add_(1)
        return network
    monkeypatch.setattr(graph.Classifier, 'deployed', wrong)


def test_a_file_that_differs_is_no_file_and_an_error(folder, capsys, monkeypatch):
    spoil(monkeypatch)
    said = line(capsys, '--format', 'torch-export', '--out', 'wrong.pt2', code=1)
    assert 'the exported file is not the network: at 65 x 65 px' in said
    assert not (folder / 'wrong.pt2').exists()


def evaluated(capsys, *argv, config='tiny.py'):
    with pytest.raises(SystemExit) as exit_:
        run.test(engine_cli.parse(engine_cli.test_parser(), [config, *argv, '--work-dir', 'x']))
    assert exit_.value.code in (1, 2)
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize('kind', ['torch-export', pytest.param('torchscript', marks=[
    pytest.mark.slow])])
@pytest.mark.parametrize('flags', [['--preprocess'], ['--half'], []], ids=str)
def test_the_test_tool_gives_a_file_of_pytorch_what_it_takes(kind, flags, folder):
    """Also where autocast is on around it."""
    path = export(folder, kind, 'taken_as_is', *flags, of=TINY_FILES)
    results = []
    for more in ([], ['--amp']):
        out = folder / 'taken.json'
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            'tiny.py', str(path), '--work-dir', 'x', '--out', str(out), '--out-item', 'metrics',
            *more]))
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1]


def test_a_file_of_images_as_they_are_is_evaluated(folder):
    options = 'data_preprocessor.mean=None', 'data_preprocessor.std=None'
    path = export(folder, 'torchscript', 'bare', '--cfg-options', *options, of=TINY_FILES)
    results = []
    for weights in ('tiny.pth', str(path)):
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            'tiny.py', weights, '--work-dir', 'x', '--out', 'bare.json', '--out-item', 'metrics',
            '--cfg-options', *options]))
        results.append(json.loads(Path('bare.json').read_text()))
    assert results[0] == results[1]


@pytest.mark.parametrize(('options', 'words'), [
    ('data_preprocessor.mean=[0,0,0]', 'was exported for images with mean'),
    ('data_preprocessor.std=[1,1,1]', 'was exported for images with std'),
    ('model.head.num_classes=9', 'has 8 classes and the config has 9')])
def test_a_file_and_a_config_that_do_not_fit_are_named(folder, capsys, options, words):
    path = export(folder, 'torchscript', 'misfit', of=TINY_FILES)
    assert words in evaluated(capsys, str(path), '--cfg-options', options)


def test_a_traced_file_says_that_it_is_open_and_is_evaluated_at_another_size(folder):
    path = export(folder, 'torchscript', 'traced', '--size', '97', of=TINY_FILES)
    assert runtime.open_exported(path)[1]['dynamic'] == ['batch', 'size']
    results = []
    for weights in ('tiny.pth', str(path)):
        run.test(engine_cli.parse(engine_cli.test_parser(), [
            'tiny.py', weights, '--work-dir', 'x', '--out', 'traced.json', '--out-item',
            'metrics']))
        results.append(json.loads(Path('traced.json').read_text()))
    assert results[0] == results[1]


def test_a_file_for_another_size_says_so(folder, capsys):
    path = export(folder, 'torch-export', 'larger', '--size', '97', of=TINY_FILES)
    assert 'takes images of [97, 97] px and the pipeline gives [65, 65]' in evaluated(
        capsys, str(path))


@pytest.mark.parametrize(('name', 'words'), [
    ('missing.torchscript', 'does not exist'), ('torn.torchscript', 'cannot be opened'),
    ('foreign.torchscript', 'was not written by tools/export.py'),
    ('labelled.torchscript', 'was not written by tools/export.py')])
def test_files_that_are_no_export_are_named(folder, capsys, name, words):
    (folder / 'torn.torchscript').write_bytes(b'PK nothing')
    foreign = torch.jit.trace(torch.nn.ReLU(), torch.zeros(1))
    torch.jit.save(foreign, str(folder / 'foreign.torchscript'))
    torch.jit.save(foreign, str(folder / 'labelled.torchscript'),
                   _extra_files={runtime.METADATA: '{"labels": ["cat"]}'})
    assert words in evaluated(capsys, name)


def changed(content, name):
    """An archive in which one bit of its largest part is another."""
    content = bytearray(content)
    with zipfile.ZipFile(name) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    content[part.header_offset + part.file_size // 2] ^= 64
    return content


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['torchscript', 'torch-export'])
@pytest.mark.parametrize(('damage', 'words'), [
    (changed, r"the sum of '.*' in it is wrong"),
    (lambda content, name: content[:len(content) // 2], r'no whole archive \([\d,]+ bytes\)'),
    (lambda content, name: Path('foreign.zip').read_bytes(), 'RuntimeError: .*')],
    ids=['changed', 'torn', 'foreign'])
def test_a_damaged_archive_is_one_line_with_a_way_out(kind, damage, words, capfd):
    """PyTorch opens one with changed weights, and writes tracebacks of others."""
    path = Path(f'damaged{runtime.SUFFIXES[kind]}')
    formats.WRITERS[kind](Small().eval(), torch.zeros(1, 3, 8, 8), path, (), '{}')
    with zipfile.ZipFile('foreign.zip', 'w') as archive:
        archive.writestr('a.txt', 'a')
    path.write_bytes(damage(path.read_bytes(), path))
    with pytest.raises(InputError, match=f"damaged.*' cannot be opened: {words}: it is damaged, or "
                                         'not of this format; export it again$'):
        runtime.open_exported(path)
    assert 'Traceback' not in capfd.readouterr().err


def test_a_file_that_may_not_be_read_is_not_called_damaged(monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, 'Permission denied')
    Path('theirs.onnx').touch()
    monkeypatch.setitem(runtime.OPENERS, 'onnx', refused)
    with pytest.raises(InputError, match='cannot be opened: .*Permission denied$'):
        runtime.open_exported('theirs.onnx')


def test_folders_and_hidden_files_are_no_pictures(tmp_path):
    for name in ('b.png', '.cache/a.png', '._c.png', 'd.PNG'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (4, 4)).save(tmp_path / name, 'PNG')
    (tmp_path / 'a.png').mkdir()
    found = check.pictures_below(str(tmp_path), '--calib')
    assert [path.name for path in found] == ['b.png', 'd.PNG']
    assert len(check.real_pictures(str(tmp_path))) == 2


def test_pictures_of_linked_folders_are_read(tmp_path):
    (tmp_path / 'data').mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / 'data/a.png')
    (tmp_path / 'chosen').mkdir()
    (tmp_path / 'chosen/cat').symlink_to(tmp_path / 'data')
    assert check.pictures_below(str(tmp_path / 'chosen'), '--calib') == [
        tmp_path / 'chosen/cat/a.png']


def test_pictures_of_a_folder_are_read_in_order(tmp_path):
    for i in range(3):
        Image.new('RGB', (4 + i, 4)).save(tmp_path / f'{i}.png')
    assert [p.size[0] for p in check.real_pictures(str(tmp_path), most=2)] == [4, 5]
