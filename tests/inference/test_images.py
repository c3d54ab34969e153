"""Every kind of file becomes the picture that people see, or an error that names it."""
import random
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmeffnet.inference import images
from mmeffnet.inference.files import collect
from mmeffnet.inference.images import ImageError, as_image, read_image


def corner(path):
    """The top left pixel as it is read."""
    image = read_image(path)
    assert image.mode == 'RGB'
    return image.getpixel((0, 0))


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def half_and_half():
    """8 x 4 pixels: the left half red, the right half blue."""
    image = Image.new('RGB', (8, 4), 'red')
    image.paste('blue', (4, 0, 8, 4))
    return image


def png(path, *, width, height, depth, colour, rows, extra=b''):
    """A PNG file from its parts, for what Pillow does not write."""
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + extra
                     + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))
    return path


# What every picture becomes.

@pytest.mark.parametrize(('mode', 'value', 'expected'), [
    ('L', 77, (77, 77, 77)), ('1', 1, (255, 255, 255)), ('RGB', (1, 2, 3), (1, 2, 3)),
    ('LA', (0, 0), (255, 255, 255)), ('LA', (50, 255), (50, 50, 50)),
    ('RGBA', (255, 0, 0, 0), (255, 255, 255)), ('RGBA', (10, 20, 30, 255), (10, 20, 30))])
def test_modes_become_rgb_and_what_is_transparent_becomes_white(tmp_path, mode, value, expected):
    assert corner(saved(tmp_path, Image.new(mode, (3, 2), value), 'a.png')) == expected


def test_half_transparent_colours_are_mixed_with_white(tmp_path):
    red, green, blue = corner(saved(tmp_path, Image.new('RGBA', (2, 2), (255, 0, 0, 128)),
                                    'a.png'))
    assert (red, green) == (255, blue)
    assert 126 <= green <= 128


def test_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = Image.new('P', (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, 'a.png', transparency=0)
    assert corner(path) == (255, 255, 255)
    assert read_image(path).getpixel((1, 0)) == (0, 200, 0)


@pytest.mark.parametrize(('value', 'expected'), [(0, 0), (257, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bits_are_scaled_and_not_cut(tmp_path, value, expected, name):
    image = Image.fromarray(np.full((2, 3), value, dtype=np.uint16))
    assert corner(saved(tmp_path, image, name)) == (expected, ) * 3


def test_16_bits_in_the_other_byte_order_are_the_same(tmp_path):
    image = Image.frombytes('I;16B', (2, 2), np.full((2, 2), 32768, dtype='>u2').tobytes())
    assert corner(saved(tmp_path, image, 'a.tif')) == (128, 128, 128)


@pytest.mark.parametrize('value', [0, 100])
def test_transparent_value_of_16_bits_becomes_white(tmp_path, value):
    row = b'\0' + struct.pack('>HH', value, 30000)
    extra = struct.pack('>I', 2) + b'tRNS' + struct.pack('>H', value)
    extra += struct.pack('>I', zlib.crc32(extra[4:]))
    path = png(tmp_path / 'a.png', width=2, height=1, depth=16, colour=0, rows=row, extra=extra)
    assert corner(path) == (255, 255, 255)
    assert read_image(path).getpixel((1, 0)) == (117, 117, 117)  # 30000 / 257


def test_16_bits_of_colour_keep_their_high_bytes(tmp_path):
    row = b'\0' + struct.pack('>HHH', 65535, 32768, 0)
    path = png(tmp_path / 'a.png', width=1, height=1, depth=16, colour=2, rows=row)
    assert corner(path) == (255, 128, 0)


@pytest.mark.parametrize(('dtype', 'value', 'expected'), [
    (np.int32, 65535, 255), (np.float32, 0.5, 128), (np.float32, 1.0, 255),
    (np.float32, 200.0, 200)])
def test_32_bits_are_scaled_where_their_range_tells(tmp_path, dtype, value, expected):
    array = np.zeros((2, 2), dtype=dtype)
    array[0, 0] = value
    assert corner(saved(tmp_path, Image.fromarray(array), 'a.tif')) == (expected, ) * 3


@pytest.mark.parametrize(('dtype', 'value'), [(np.int32, -1), (np.float32, 1000.0)])
def test_32_bits_without_a_known_range_are_refused(tmp_path, dtype, value):
    path = saved(tmp_path, Image.fromarray(np.full((2, 2), value, dtype=dtype)), 'a.tif')
    with pytest.raises(ImageError, match=r'a\.tif: 32-bit values from .* must lie in'):
        read_image(path)


def test_cmyk_jpeg_with_adobe_s_inverted_values_keeps_its_colours(tmp_path):
    path = saved(tmp_path, Image.new('RGB', (16, 16), (250, 20, 30)).convert('CMYK'), 'a.jpg',
                 quality=100)
    assert b'Adobe' in path.read_bytes()
    assert np.allclose(corner(path), (250, 20, 30), atol=6)


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.webp'])
def test_exif_orientation_turns_the_picture_upright(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    path = saved(tmp_path, half_and_half().resize((64, 32), 0), name, exif=exif)
    image = read_image(path)
    assert image.size == (32, 64)
    assert image.getpixel((16, 5))[0] > 200  # red has come to the top
    assert image.getpixel((16, 60))[2] > 200


def test_first_frame_of_an_animation_is_taken(tmp_path):
    path = saved(tmp_path, Image.new('RGB', (4, 4), 'red'), 'a.gif', save_all=True,
                 append_images=[Image.new('RGB', (4, 4), 'blue')])
    assert corner(path) == (255, 0, 0)


def test_one_pixel_is_a_picture(tmp_path):
    assert read_image(saved(tmp_path, Image.new('RGB', (1, 1), 'red'), 'a.png')).size == (1, 1)


@pytest.mark.parametrize('suffix', [
    'jpg', 'jpeg', 'jfif', 'png', 'apng', 'webp', 'gif', 'bmp', 'dib', 'tif', 'tiff', 'avif', 'jp2',
    'ppm', 'pgm', 'ico'])
def test_every_kind_of_file_is_read_and_found_in_a_folder(tmp_path, suffix):
    if Image.registered_extensions().get(f'.{suffix}') not in Image.SAVE:
        pytest.skip('Pillow was built without it')
    path = saved(tmp_path, Image.new('L' if suffix == 'pgm' else 'RGB', (32, 32), 'white'),
                 f'a.{suffix.upper()}')
    assert np.allclose(corner(path), 255, atol=3)
    (found, _), = collect([tmp_path], tmp_path / 'out').pictures
    assert found == path


def test_the_content_decides_and_not_the_suffix(tmp_path):
    path = saved(tmp_path, Image.new('RGB', (4, 4), 'red'), 'a.png')
    assert corner(path.rename(tmp_path / 'a.jpg')) == (255, 0, 0)


# Large ones.

def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    path = saved(tmp_path, half_and_half().resize((800, 400), 0), 'a.jpg')
    monkeypatch.setattr(images, 'REDUCED_ABOVE', 10_000)
    monkeypatch.setattr(images, 'REDUCED_SIDE', 50)
    image = read_image(path)
    assert image.size == (100, 50)
    assert np.allclose(image.getpixel((10, 10)), (254, 0, 0), atol=3)


@pytest.mark.parametrize(('mode', 'height', 'size'), [
    ('RGB', 200, (100, 50)), ('L', 200, (100, 50)), ('P', 200, (100, 50)), ('1', 200, (100, 50)),
    ('RGBA', 200, (100, 50)), ('I;16', 200, (100, 50)), ('RGB', 40, (400, 40))])
def test_other_large_pictures_are_averaged_down_unless_they_are_narrow(tmp_path, monkeypatch, mode,
                                                                      height, size):
    image = Image.new('L', (400, height), 255).convert('I' if mode == 'I;16' else mode)
    path = saved(tmp_path, image.convert(mode), 'a.png')
    monkeypatch.setattr(images, 'REDUCED_ABOVE', 10_000)
    monkeypatch.setattr(images, 'REDUCED_SIDE', 50)
    assert read_image(path).size == size


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path):
    path = png(tmp_path / 'a.png', width=40000, height=20000, depth=8, colour=0, rows=b'')
    with pytest.raises(ImageError, match=r'a\.png: .*300 megapixels'):
        read_image(path)


def test_pillow_sown_limit_is_put_back(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    read_image(saved(tmp_path, Image.new('L', (2, 2)), 'a.png'))
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillow_s_own_limit_and_filters_are_put_back_by_the_last_thread():
    """The first to come in may be the first to go out."""
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    first, second = images.own_limit(), images.own_limit()
    first.__enter__()
    second.__enter__()
    leaving = threading.Thread(target=first.__exit__, args=(None, ) * 3)
    leaving.start()
    leaving.join()
    assert images.MOST_PIXELS // 2 == Image.MAX_IMAGE_PIXELS
    second.__exit__(None, None, None)
    assert (before, filters) == (Image.MAX_IMAGE_PIXELS, warnings.filters)


def test_threads_read_at_once(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    path = saved(tmp_path, Image.new('RGB', (300, 300), 'red'), 'a.png')
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_image, [path] * 200))
    assert all(image.getpixel((0, 0)) == (255, 0, 0) for image in found)
    assert before == Image.MAX_IMAGE_PIXELS


# What cannot be read.

@pytest.mark.parametrize(('content', 'reason'), [
    (b'', r'the file is empty \(0 bytes\)'), (b'hello', 'not a picture in a format'),
    # Pillow would start Ghostscript for this one.
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not a picture in a format')])
def test_files_that_are_no_pictures_are_named(tmp_path, content, reason):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf'a\.jpg: {reason}'):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ImageError, match=r'a\.jpg: there is no such file'):
        read_image(tmp_path / 'a.jpg')
    with pytest.raises(ImageError, match='https://a.b/c.jpg: an address, and .* download it first'):
        read_image('https://a.b/c.jpg')
    with pytest.raises(ImageError, match='a folder, not a picture'):
        read_image(tmp_path)


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.webp'])
def test_a_file_that_is_cut_short_is_named(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf'{name}: (the file is|not a picture)'):
        read_image(path)


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.gif', 'a.tif', 'a.webp', 'a.bmp'])
def test_damage_raises_no_other_error(tmp_path, name):
    path, draw = saved(tmp_path, half_and_half(), name), random.Random(0)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[:draw.randrange(1, len(damaged) + 1)])
        message = ''
        try:
            assert read_image(path).mode == 'RGB'
        except ImageError as error:
            message = str(error)
        assert message.startswith(str(path)) or not message
        assert '\n' not in message


def test_a_picture_of_the_caller_above_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(images, 'MOST_PIXELS', 100)
    assert as_image(Image.new('L', (10, 10))).size == (10, 10)
    with pytest.raises(ImageError, match='PIL image: 10 x 11 pixels are 0 megapixels, and at most'):
        as_image(Image.new('L', (10, 11)))


# From Python.

def test_arrays_and_pil_images_are_pictures():
    array = np.zeros((2, 3, 3), dtype=np.uint8)
    array[..., 0] = 9
    for source in (array, Image.fromarray(array), np.dstack([array, np.full((2, 3), 255)]).astype(
            np.uint8)):
        assert as_image(source).getpixel((2, 1)) == (9, 0, 0)
    assert as_image(array[..., 0]).getpixel((0, 0)) == (9, 9, 9)
    assert as_image(array[..., :1]).size == (3, 2)


@pytest.mark.parametrize(('array', 'match'), [
    (np.zeros((2, 3, 3)), r'shape \(2, 3, 3\), float64'),
    (np.zeros((3, 9, 9), dtype=np.uint8), r'shape \(3, 9, 9\), uint8'),
    (np.zeros((0, 9, 3), dtype=np.uint8), r'shape \(0, 9, 3\) has no pixels')])
def test_other_arrays_are_refused_with_shape_and_type(array, match):
    with pytest.raises(ImageError, match=match):
        as_image(array)


def test_other_types_are_refused():
    with pytest.raises(ImageError, match='int: a picture is a path'):
        as_image(3)


def test_the_caller_s_image_stays_as_it_is():
    image = half_and_half()
    image.getexif()[0x0112] = 6
    assert as_image(image).size == (4, 8)
    assert image.size == (8, 4)
