"""Crops that are decoded alone are those of mmpretrain's pipeline, pixel for pixel."""
import io

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from picture_files import FILES, through, written
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

import mmeffnet  # noqa: F401
from mmeffnet.datasets import decoding
from mmeffnet.datasets.decoding import Picture
from mmeffnet.datasets.encoded import DecodingDataPreprocessor
from mmeffnet.datasets.transforms import PackChannelsLast

FLIP = dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal')
THEIRS = [dict(type='mmpretrain.LoadImageFromFile'),
          dict(type='mmpretrain.EfficientNetRandomCrop', scale=64), FLIP,
          dict(type='mmpretrain.PackInputs')]
OURS = [dict(type='mmeffnet.LoadRandomCrop', scale=64, flip_prob=0.5),
        dict(type='mmeffnet.PackChannelsLast')]


@pytest.fixture(params=['partly', 'wholly'])
def decoded(request, monkeypatch):
    """With nvImageCodec, and as where it is not installed."""
    if request.param == 'partly':
        pytest.importorskip('nvidia.nvimgcodec')
    else:
        monkeypatch.setattr(decoding, '_library', lambda: None)
    return request.param


@pytest.mark.parametrize('kind', FILES)
def test_crops_and_flips_are_those_of_mmpretrain(tmp_path, kind, decoded):
    path = FILES[kind](tmp_path / 'a.jpg')
    fields = 'gt_label', 'img_path', 'img_shape', 'ori_shape', 'flip', 'flip_direction'
    flips = set()
    for seed in range(20):
        theirs, ours = (through(steps, path, seed) for steps in (THEIRS, OURS))
        assert torch.equal(theirs['inputs'], ours['inputs'])
        assert ours['inputs'].shape == (3, 64, 64)
        theirs, ours = theirs['data_samples'], ours['data_samples']
        assert [theirs.get(name) for name in fields] == [ours.get(name) for name in fields]
        flips.add(ours.flip)
    assert flips == {False, True}


@pytest.mark.parametrize('size', [(1, 30), (900, 2), (1, 5000), (1, 1), (3, 3000)])
@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('load', [OURS, [
    dict(type='mmeffnet.LoadEncodedRandomCrop', scale=64), dict(type='mmeffnet.PackEncoded')]])
def test_a_crop_has_a_pixel_at_least(tmp_path, size, suffix, load, decoded):
    """Where mmpretrain's fallback has none, and stops."""
    path = tmp_path / f'a.{suffix}'
    Image.new('RGB', size, 'red').save(path)
    packed = through(load, path, 0)
    if load is not OURS:
        packed = dict(DecodingDataPreprocessor()(dict(
            inputs=[packed['inputs']], data_samples=[packed['data_samples']])))
    assert packed['inputs'].shape[-3:] == (3, 64, 64)
    red = packed['inputs'].reshape(3, -1).float().mean(1)
    assert red[2] > 200 > 50 > red[:2].max()


def test_the_fallback_to_the_centre_is_mmpretrains(tmp_path, decoded):
    path = written(tmp_path / 'a.jpg', data.chelsea()[:, :77])
    impossible = dict(aspect_ratio_range=(20., 30.), crop_ratio_range=(0.9, 1.))
    theirs, ours = ([dict(steps[0]), *steps[1:]] for steps in (THEIRS, OURS))
    theirs[1] = dict(theirs[1], **impossible)
    ours[0].update(impossible)
    for seed in range(3):
        assert torch.equal(through(theirs, path, seed)['inputs'],
                           through(ours, path, seed)['inputs'])


def test_parts_of_a_picture_are_those_of_the_whole():
    pytest.importorskip('nvidia.nvimgcodec')
    file = io.BytesIO()
    Image.fromarray(data.chelsea()).save(file, 'JPEG', subsampling='4:2:0')
    whole = mmcv.imfrombytes(file.getvalue(), backend='cv2')
    height, width = whole.shape[:2]
    random = np.random.default_rng(0)
    for _ in range(200):
        top, bottom = sorted(random.choice(height + 1, 2, replace=False))
        left, right = sorted(random.choice(width + 1, 2, replace=False))
        picture = Picture(file.getvalue(), 'a')
        assert picture.shape == (height, width)
        part = picture.part(int(top), int(left), int(bottom), int(right))
        assert picture._pixels is None  # the whole was not decoded
        assert np.array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize('content', [b'', b'\xff\xd8\xff', b'no picture at all'],
                         ids=['empty', 'a beginning', 'text'])
def test_what_is_no_picture_is_named(tmp_path, content, decoded):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.jpg' is no picture that OpenCV reads \(\d+ bytes\)"):
        through(OURS, path, 0)


def test_a_torn_picture_is_named_where_the_crop_needs_what_is_lost(tmp_path, decoded):
    path = written(tmp_path / 'a.jpg')
    intact = [through(OURS, path, seed)['inputs'] for seed in range(12)]
    path.write_bytes(path.read_bytes()[:-3000])
    found = []
    for seed in range(12):
        try:
            found.append(through(OURS, path, seed)['inputs'])
        except ValueError as error:
            found.append(str(error))
    named = [text for text in found if isinstance(text, str)]
    assert all("a.jpg' is no picture that OpenCV reads" in text for text in named)
    assert all(torch.equal(a, b) for a, b in zip(found, intact, strict=True)
               if not isinstance(a, str))
    assert len(named) == 12 if decoded == 'wholly' else 0 < len(named) < 12


def test_a_picture_that_is_decoded_already_is_cropped(tmp_path):
    path = str(written(tmp_path / 'a.png'))
    found = []
    for given in (dict(img_path=path), dict(img_path=path, img=mmcv.imread(path))):
        np.random.seed(3)
        found.append(TRANSFORMS.build(OURS[0])(given))
    assert np.array_equal(found[0]['img'], found[1]['img'])
    assert found[0]['ori_shape'] == found[1]['ori_shape'] == (300, 451)


@pytest.mark.parametrize('image', [
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1],
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[::-1, ::-1],
    np.arange(48, dtype=np.uint8).reshape(2, 8, 3)[:, ::2],
    np.arange(8, dtype=np.uint8).reshape(2, 4),
    np.arange(24, dtype=np.float32).reshape(2, 4, 3)[:, ::-1]],
    ids=['plain', 'flipped', 'turned', 'strided', 'gray', 'float'])
def test_packing_changes_no_value(image):
    theirs = TRANSFORMS.build(dict(type='mmpretrain.PackInputs'))(dict(img=image))['inputs']
    ours = PackChannelsLast()(dict(img=image))['inputs']
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)
    if image.ndim == 3:
        assert ours[None].is_contiguous(memory_format=torch.channels_last)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, path):
        self.path, self.step = path, TRANSFORMS.build(OURS[0])

    def __len__(self):
        return 4

    def __getitem__(self, index):
        np.random.seed(index)
        return self.step(dict(img_path=self.path))['img']


def test_workers_that_are_forked_decode_too(tmp_path):
    pytest.importorskip('nvidia.nvimgcodec')
    dataset = Pictures(str(written(tmp_path / 'a.jpg')))
    here = [dataset[i] for i in range(4)]  # the decoder of this process is in use
    there = DataLoader(dataset, 1, num_workers=2, multiprocessing_context='fork')
    assert all(np.array_equal(a, b[0]) for a, b in zip(here, there, strict=True))


def test_a_share_of_flips_must_be_one():
    with pytest.raises(ValueError, match=r'flip_prob=2 must be between 0 and 1'):
        TRANSFORMS.build(dict(OURS[0], flip_prob=2))
