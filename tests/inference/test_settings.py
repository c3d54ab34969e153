"""What the network is given: timm's pixels, mmpretrain's pixels, and the config for either."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from timm.data import create_transform

from mmeffnet.errors import InputError
from mmeffnet.inference import RESAMPLERS
from mmeffnet.inference.settings import Settings
from mmeffnet.variants import HALF_NORM, IMAGENET_NORM, Norm
from mmeffnet.weights import get_entry
from mmeffnet.weights.trained import read_pipeline

SIZES = [(500, 375), (375, 501), (224, 224), (97, 333), (31, 30), (1, 1)]


def photograph(width, height):
    """Noise of two scales, so that every kind of resampling shows."""
    draw = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(draw.integers(0, 255, (5, 5, 3), dtype=np.uint8))
    fine = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(coarse.resize((width, height))) // 2 + fine)


def weights(variant='b0', norm=None, stated=(), **entry):
    if 'resolution' not in entry:
        return SimpleNamespace(variant=variant, norm=norm, stated=dict(stated), entry=None)
    base = replace(get_entry('efficientnet-b0_tpu-aa_in1k'), crop=None)
    return SimpleNamespace(variant=variant, norm=norm, stated=dict(stated),
                           entry=replace(base, **{'norm': IMAGENET_NORM, **entry}))


def run_pipeline(image, tmp_path, *transforms):
    """The RGB pixels that an mmpretrain pipeline gives for a file."""
    init_default_scope('mmpretrain')
    image.save(tmp_path / 'a.png')
    pipeline = Compose([TRANSFORMS.build(cfg) for cfg in transforms])
    return pipeline(dict(img_path=str(tmp_path / 'a.png')))['img'][..., ::-1]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('resolution', 'crop', 'interpolation'), [
    (224, 0.875, 'bicubic'), (240, 0.882, 'bicubic'), (300, 0.904, 'bicubic'),
    (224, 1.0, 'bilinear'), (64, 0.9, 'bilinear')])
def test_pixels_are_those_of_timm_s_transform(size, resolution, crop, interpolation):
    image = photograph(*size)
    judge = create_transform(resolution, crop_pct=crop, interpolation=interpolation,
                             normalize=False)
    settings = Settings.of(weights(resolution=resolution, crop=crop,
                                   interpolation=interpolation))
    assert np.array_equal(settings.pixels(image), judge(image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize('norm', [IMAGENET_NORM, HALF_NORM])
def test_tensors_are_normalised_as_by_timm(norm):
    image = photograph(300, 280)
    mean, std = ([value / 255 for value in values] for values in (norm.mean, norm.std))
    judge = create_transform(224, crop_pct=0.875, interpolation='bicubic', mean=mean, std=std)
    settings = Settings.of(weights(resolution=224, crop=0.875, norm=norm))
    tensor = settings.tensor(image)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, judge(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize('size', SIZES)
def test_pixels_of_cv2_are_those_of_mmpretrain_s_configs(size, tmp_path):
    image = photograph(*size)
    expected = run_pipeline(image, tmp_path, dict(type='LoadImageFromFile'),
                            dict(type='EfficientNetCenterCrop', crop_size=240))
    settings = Settings.of(weights('lite1'), 'cv2')
    assert np.array_equal(settings.pixels(image), expected)


def test_pixels_of_cv2_have_the_crop_and_interpolation_of_the_entry(tmp_path):
    image = photograph(500, 375)
    expected = run_pipeline(image, tmp_path, dict(type='LoadImageFromFile'), dict(
        type='EfficientNetCenterCrop', crop_size=288, crop_padding=0, interpolation='bilinear'))
    settings = Settings.of(weights(resolution=288, crop=1.0, interpolation='bilinear'), 'cv2')
    assert np.array_equal(settings.pixels(image), expected)


@pytest.mark.parametrize('size', SIZES)
def test_the_config_in_the_docs_equals_timm_s_transform(size, tmp_path):
    image = photograph(*size)
    pixels = run_pipeline(
        image, tmp_path, dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=256, edge='short', backend='pillow',
             interpolation='bicubic'), dict(type='CenterCrop', crop_size=224))
    judge = create_transform(224, crop_pct=0.875, interpolation='bicubic', normalize=False)
    assert np.array_equal(pixels, judge(image).permute(1, 2, 0).numpy())


def test_the_pillow_backend_of_mmpretrain_s_crop_is_another_picture(tmp_path):
    """It crops before it resizes: the reason for the other config in the docs."""
    image = photograph(500, 375)
    pixels = run_pipeline(image, tmp_path, dict(type='LoadImageFromFile'), dict(
        type='EfficientNetCenterCrop', crop_size=224, backend='pillow'))
    assert not np.array_equal(pixels, Settings.of(weights()).pixels(image))


def test_an_entry_decides_over_the_variant():
    settings = Settings.of(weights(resolution=288, crop=1.0, interpolation='bilinear',
                                   norm=HALF_NORM))
    assert (settings.resolution, settings.scale) == (288, 288)
    assert (settings.interpolation, settings.norm) == ('bilinear', HALF_NORM)


@pytest.mark.parametrize('size', [(500, 375), (97, 333), (1, 1), (9, 400)])
def test_a_squashed_picture_is_that_of_timm(size):
    image = photograph(*size)
    judge = create_transform(224, crop_pct=1.0, crop_mode='squash', interpolation='bicubic',
                             normalize=False)
    settings = Settings.of(weights(resolution=224, crop=1.0, crop_mode='squash'))
    assert np.array_equal(settings.pixels(image), judge(image).permute(1, 2, 0).numpy())
    assert settings.box(size) == (0, 0, *size)
    assert Settings.of(weights(resolution=224, crop=1.0, crop_mode='squash'), 'cv2').pixels(
        image).shape == (224, 224, 3)


def test_a_file_that_states_its_normalisation_decides_over_all():
    entry = weights(resolution=288)
    entry.norm = HALF_NORM
    assert Settings.of(entry).norm == HALF_NORM


def test_without_an_entry_the_variant_s_own_numbers_hold():
    settings = Settings.of(weights('lite1'))
    assert (settings.resolution, settings.scale, settings.norm) == (240, 272, HALF_NORM)


@pytest.mark.parametrize('size', [(1, 30000), (30000, 1), (7, 900)])
def test_long_strips_take_little_memory_and_keep_their_middle(size):
    strip = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    middle = [slice(max(0, n // 2 - min(size)), n // 2 + min(size) + 1) for n in reversed(size)]
    strip[middle[0], middle[1]] = 255
    assert Settings.of(weights()).pixels(Image.fromarray(strip)).min() == 255


@pytest.mark.parametrize('size', [(400, 300), (300, 400), (64, 64)])
def test_the_box_is_what_the_network_sees(size):
    settings = Settings.of(weights())
    left, top, right, bottom = box = settings.box(size)
    assert right - left == bottom - top == min(size) * 224 / 256
    image = Image.new('L', size)
    image.paste(255, [round(n) for n in box])
    pixels = settings.pixels(image.convert('RGB'))
    assert pixels[3:-3, 3:-3].min() == 255
    image.paste(0, [round(left) + 8, round(top) + 8, round(right) - 8, round(bottom) - 8])
    assert settings.pixels(image.convert('RGB'))[4:-4, 3].min() > 200


FORMS = [
    [dict(type='EfficientNetCenterCrop', crop_size=96)],
    [dict(type='EfficientNetCenterCrop', crop_size=96, crop_padding=8, backend='pillow',
          interpolation='bilinear')],
    [dict(type='ResizeEdge', scale=110), dict(type='CenterCrop', crop_size=96)],
    [dict(type='mmpretrain.ResizeEdge', scale=96, backend='pillow', interpolation='lanczos'),
     dict(type='CenterCrop', crop_size=(96, 96))],
    [dict(type='Resize', scale=96)],
    [dict(type='Resize', scale=(96, 96), backend='pillow', interpolation='bicubic')]]


@pytest.mark.parametrize('size', [(500, 375), (97, 333), (31, 30)])
@pytest.mark.parametrize('form', FORMS)
def test_pixels_of_a_training_are_those_of_its_test_pipeline(form, size, tmp_path):
    image, load = photograph(*size), dict(type='LoadImageFromFile')
    settings = Settings.of(weights(stated=dict(input=read_pipeline(
        [load, *form, dict(type='PackInputs')]))))
    assert settings.resolution == 96
    assert np.array_equal(settings.pixels(image), run_pipeline(image, tmp_path, load, *form))
    # One that is asked for goes before it, on the same part of the picture.
    for resampler in RESAMPLERS:
        other = Settings.of(weights(stated=dict(input=read_pipeline(
            [*form, dict(type='PackInputs')]))), resampler)
        assert other.pixels(image).shape == (96, 96, 3)
        assert (other.box(size), other.transforms) == (settings.box(size), ())


def test_a_network_of_bgr_input_gets_its_channels_in_that_order():
    image, norm = photograph(50, 40), Norm(mean=(1., 2., 3.), std=(4., 5., 6.))
    rgb, bgr = (Settings.of(weights(stated=dict(norm=norm, channel_order=order))).tensor(image)
                for order in ('rgb', 'bgr'))
    assert torch.equal(rgb, bgr.flip(0))


def test_an_unknown_resampler_is_refused():
    with pytest.raises(InputError, match="resampler='lanczos' must be one of"):
        Settings.of(weights(), 'lanczos')
