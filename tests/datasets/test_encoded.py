"""JPEG files that are decoded where the model is give the crops that a worker would have cut."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS
from picture_files import FILES, through, written
from PIL import Image
from skimage import data

from mmeffnet.datasets import encoded
from mmeffnet.engine import cli
from mmeffnet.errors import RunError

DECODED = [dict(type='mmeffnet.LoadRandomCrop', scale=64, flip_prob=0.5),
           dict(type='mmpretrain.PackInputs')]
ENCODED = [dict(type='mmeffnet.LoadEncodedRandomCrop', scale=64, flip_prob=0.5),
           dict(type='mmeffnet.PackEncoded')]
FIELDS = ('gt_label', 'img_path', 'img_shape', 'ori_shape', 'flip', 'flip_direction')


def preprocessor(type='mmeffnet.DecodingDataPreprocessor'):
    return MODELS.build(dict(type=type, to_rgb=True, mean=[100., 110., 120.], std=[50., 55., 60.]))


def batches(paths, seeds, collate, encoded=ENCODED):
    """The batch of all files, decoded by workers and by the data preprocessor, after both."""
    result = []
    for steps, kind in ((DECODED, 'mmpretrain.ClsDataPreprocessor'),
                        (encoded, 'mmeffnet.DecodingDataPreprocessor')):
        batch = collate([through(steps, path, seed) for path in paths for seed in seeds])
        result.append(preprocessor(kind)(batch, training=True))
    return result


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_batches_are_those_of_workers_that_decode(tmp_path, collate, interpolation, monkeypatch):
    paths = [write(tmp_path / f'{i}.jpg') for i, write in enumerate(FILES.values())]
    for steps in (DECODED, ENCODED):
        monkeypatch.setitem(steps[0], 'interpolation', interpolation)
    theirs, ours = batches(paths, range(8), collate)
    assert ours['inputs'].shape == (8 * len(FILES), 3, 64, 64)
    # OpenCV rounds its weights to 11 bits. A level is 1 / 60 to 1 / 50 here.
    levels = (theirs['inputs'] - ours['inputs']).abs() * 50
    assert levels.max() < 1.01
    assert levels.mean() < 0.15
    flips = set()
    for a, b in zip(theirs['data_samples'], ours['data_samples'], strict=True):
        assert [a.get(name) for name in FIELDS] == [b.get(name) for name in FIELDS]
        flips.add(b.flip)
    assert flips == {False, True}


@pytest.mark.parametrize('kind', FILES)
def test_workers_decode_what_devices_do_not(tmp_path, kind):
    sample = through(ENCODED, FILES[kind](tmp_path / 'a.jpg'), 0)
    here = kind in ('CMYK', 'turned by EXIF', 'turned after much else', 'PNG', 'WebP')
    assert (sample['data_samples'].crop is None) == here
    assert (sample['inputs'][:2] == b'\xff\xd8') != here


def test_workers_decode_what_is_too_large_for_pillow(tmp_path, monkeypatch):
    path = written(tmp_path / 'a.jpg')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    decoded, encoded = (through(steps[:1], path, 0) for steps in (DECODED, ENCODED))
    assert encoded['crop'] is None
    assert encoded['img'] == decoded['img'].tobytes()


def test_images_of_other_pipelines_pass(tmp_path):
    path = written(tmp_path / 'a.jpg')
    found = [preprocessor(kind)(default_collate([through(DECODED, path, 0)]))['inputs']
             for kind in ('mmpretrain.ClsDataPreprocessor', 'mmeffnet.DecodingDataPreprocessor')]
    assert torch.equal(*found)


def test_a_file_that_the_device_refuses_is_decoded_on_the_cpu(tmp_path, monkeypatch):
    """One file in a batch, of which the decoder does not say which it was."""
    paths = [written(tmp_path / f'{quality}.jpg', quality=quality) for quality in (70, 80, 90)]
    refused, decode = paths[1].read_bytes(), encoded.decode_jpegs

    def shaky(files, device):
        if refused in files:
            raise RuntimeError('nvjpegDecode failed: 5')
        return decode(files, device)
    told = []
    monkeypatch.setattr(encoded, 'decode_jpegs', shaky)
    monkeypatch.setattr(encoded, 'print_log', lambda line, *_: told.append(line))
    theirs, ours = batches(paths, range(4), default_collate)
    assert (theirs['inputs'] - ours['inputs']).abs().max() * 50 < 1.01
    assert len(told) == 1
    assert str(paths[1]) in told[0]
    assert told[0].endswith('others that cpu cannot decode: RuntimeError: nvjpegDecode failed: 5')


def test_no_file_is_blamed_for_memory_that_is_out(tmp_path, monkeypatch):
    def full(files, device):
        raise torch.OutOfMemoryError('CUDA out of memory')
    monkeypatch.setattr(encoded, 'decode_jpegs', full)
    with pytest.raises(torch.OutOfMemoryError):
        batches([written(tmp_path / 'a.jpg')], range(1), default_collate)


def test_a_torn_file_is_named(tmp_path):
    path = written(tmp_path / 'a.jpg')
    path.write_bytes(path.read_bytes()[:700])  # a header, and not one row
    batch = default_collate([through(ENCODED, path, 0)])
    with pytest.raises(RunError, match=r"image '.*a.jpg' cannot be decoded: .* is no picture that "
                       r'OpenCV reads \(700 bytes\). Look through the data'):
        preprocessor()(batch)


@pytest.mark.parametrize('content', [b'', b'\xff\xd8\xff', b'no picture at all'],
                         ids=['empty', 'a beginning', 'text'])
def test_what_is_no_picture_is_named_by_the_worker(tmp_path, content):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.jpg' is no picture that OpenCV reads \(\d+ bytes\)"):
        through(ENCODED, path, 0)


def test_nothing_that_needs_pixels_comes_between(tmp_path):
    steps = [dict(type='mmeffnet.LoadRandomCrop', scale=16), ENCODED[1]]
    with pytest.raises(TypeError, match='PackEncoded packs what LoadEncodedRandomCrop gives, and '
                       'nothing that changes pixels can come between; got ndarray'):
        through(steps, written(tmp_path / 'a.jpg'), 0)


def test_pixels_are_refused(tmp_path):
    sample = dict(img_path=str(written(tmp_path / 'a.jpg')), img=data.chelsea())
    with pytest.raises(ValueError, match='the picture is decoded already: LoadRandomCrop takes it'):
        TRANSFORMS.build(ENCODED[0])(sample)


def test_a_preprocessor_that_does_not_decode_is_refused_before_the_run(tiny_config, fails):
    line = fails(cli.train_parser, tiny_config(
        f'train_dataloader = dict(dataset=dict(pipeline={ENCODED}))'))
    assert line.endswith("train_dataloader: PackEncoded leaves the decoding to the data "
                         'preprocessor, which is ClsDataPreprocessor: set '
                         "data_preprocessor.type='mmeffnet.DecodingDataPreprocessor'")


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="interpolation='lanczos' must be one of"):
        TRANSFORMS.build(dict(ENCODED[0], interpolation='lanczos'))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_nvjpeg_decodes_alike(tmp_path):
    paths = [write(tmp_path / f'{i}.jpg') for i, write in enumerate(FILES.values())]
    batch = default_collate([through(ENCODED, path, 0) for path in paths])
    expected = preprocessor()(batch)['inputs']
    found = preprocessor().cuda()(batch)['inputs']
    assert found.is_cuda
    # Another inverse transform and another way to widen the colours.
    assert (found.cpu() - expected).abs().mean() * 50 < 3


@pytest.mark.slow
def test_a_run_that_decodes_later_learns_the_same(tiny_config, tmp_path):
    random, folder = np.random.default_rng(0), tmp_path / 'pictures'
    for i in range(12):
        path = folder / ('cat' if i % 2 else 'dog') / f'{i}.{"png" if i == 4 else "jpeg"}'
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(20, 90, 2)
        Image.fromarray(data.chelsea()[i:i + height, 3 * i:3 * i + width]).save(path)
    guide = (Path(__file__).parents[2] / 'docs/data.md').read_text()
    later = re.search(r'```python\n_base_ = .*?\n\n(data_preprocessor.*?)```', guide,
                      flags=re.DOTALL)[1].replace('scale=224', 'scale=16')
    pipeline = Config.fromstring(later, '.py').train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline] == [step['type'] for step in ENCODED]
    before = [dict(DECODED[0], scale=16), DECODED[1]]
    before = f'train_dataloader = dict(dataset=dict(pipeline={before}))'
    results = []
    for name, lines in dict(before=before, later=later).items():
        path = tiny_config(
            lines, "train_dataloader['dataset'].update(_delete_=True, type='CustomDataset', "
            f"data_root={str(folder)!r})", 'train_dataloader.update(batch_size=4, num_workers=2, '
            'persistent_workers=True)', 'model = dict(head=dict(num_classes=2, topk=1))',
            'val_dataloader = val_cfg = val_evaluator = None', 'custom_hooks = []',
            'train_cfg = dict(max_epochs=2)', name=f'{name}.py')
        result = run_tool('train.py', path, '--work-dir', tmp_path / name, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        assert 'decoded on the CPU' not in result.stderr
        results.append(torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)['state_dict'])
    for (name, one), other in zip(results[0].items(), results[1].values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02, msg=name)
