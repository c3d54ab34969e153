"""Files of one photograph, of the kinds that are met, and pipelines of transforms on them."""
import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import Image
from skimage import data


def written(path, image=None, **options):
    """A photograph in a file: 300 x 451 pixels unless another is given."""
    image = data.chelsea() if image is None else image
    Image.fromarray(image).convert(options.pop('mode', 'RGB')).save(path, **options)
    return path


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(path, exif=exif)


def turned_after_much_else(path):
    """EXIF data behind 6 kB of Photoshop's."""
    content, much = turned(path).read_bytes(), b'Photoshop 3.0\0'.ljust(6000, b'\0')
    path.write_bytes(content[:2] + segment(0xed, much) + content[2:])
    return path


def segment(marker, data):
    """A segment of a JPEG file."""
    return bytes((0xff, marker)) + (len(data) + 2).to_bytes(2, 'big') + data


def with_upright_exif(path):
    exif = Image.Exif()
    exif[0x010f] = 'a camera'
    return written(path, exif=exif)


FILES = {
    '4:2:0': lambda path: written(path, subsampling='4:2:0'),
    '4:2:2': lambda path: written(path, subsampling='4:2:2'),
    '4:4:4': lambda path: written(path, subsampling='4:4:4', quality=100),
    'progressive': lambda path: written(path, progressive=True),
    'restart markers': lambda path: written(path, restart_marker_rows=1),
    'gray': lambda path: written(path, mode='L'),
    'CMYK': lambda path: written(path, mode='CMYK'),
    'turned by EXIF': turned,
    'turned after much else': turned_after_much_else,
    'upright EXIF': with_upright_exif,
    'narrow': lambda path: written(path, data.chelsea()[:, :31]),
    'one pixel': lambda path: written(path, data.chelsea()[:1, :1]),
    'PNG': lambda path: written(path, format='PNG'),
    'WebP': lambda path: written(path, format='WebP'),
}


def through(steps, path, seed):
    np.random.seed(seed)
    results = dict(img_path=str(path), gt_label=1, sample_idx=seed)
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    return results
