#!/usr/bin/env python
"""Write what follows from the variants and the catalog of published weights.

For maintainers: python tools/make_metafiles.py writes the metafiles and their index, the configs
under configs/*/pretrained (for the sets that no other config suits) and the table in
docs/weights.md; --check exits with 1 where one of them differs.
"""
import argparse
import sys
from pathlib import Path

from mmeffnet.analysis.complexity import complexity
from mmeffnet.variants import HALF_NORM, IMAGENET_NORM, VARIANTS
from mmeffnet.weights.catalog import CATALOG, Entry, find
from mmeffnet.weights.settings import test_transforms

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {  # folder -> collection, paper, address
    'efficientnet': (
        'EfficientNet', 'EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks',
        'https://arxiv.org/abs/1905.11946'),
    'efficientnet_edgetpu': (
        'EfficientNet-EdgeTPU', 'EfficientNet-EdgeTPU: Creating Accelerator-Optimized Neural '
        'Networks with AutoML',
        'https://ai.googleblog.com/2019/08/efficientnet-edgetpu-creating.html'),
    'efficientnet_lite': (
        'EfficientNet-Lite', 'Higher accuracy on vision models with EfficientNet-Lite',
        'https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-'
        'lite.html'),
}
METAFILE = '''\
# Written by tools/make_metafiles.py. FLOPs are multiply-adds of convolutions and classifier at
# the config's resolution. Accuracies were published by others and are not reproduced here.
Collections:
  - Name: {name}
    Paper:
      Title: "{title}"
      URL: {url}
    Metadata:
      Training Data: ImageNet-1k
    README: README.md
    Code:
      URL: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet
      Version: reference

Models:
'''
BEGIN, END = '<!-- sets: written by tools/make_metafiles.py -->\n', '<!-- end of sets -->\n'


def family(variant: str) -> str:
    return {'e': 'efficientnet_edgetpu'}.get(variant[0]) or (
        'efficientnet_lite' if variant.startswith('lite') else 'efficientnet')


def plain_config(entry: Entry) -> str | None:
    """The evaluation config that a set is at home in, None where none suits it."""
    variant = VARIANTS[entry.variant]
    ours = (entry.padding, entry.eps, entry.classes, entry.interpolation) == (
        'same', 1e-3, 1000, 'bicubic')
    # Where timm's rounded share gives one pixel less, that is the same crop.
    crop = abs(entry.scale - entry.resolution - 32) <= 1
    special = (entry.variant, entry.resolution) == ('l2', 475)
    if not ours or not crop or entry.resolution != variant.resolution and not special:
        return None
    suffix = '-475px' if special else ''
    if entry.norm == variant.norm:
        return f'efficientnet-{entry.variant}_8xb32_in1k{suffix}'
    if entry.norm == HALF_NORM and variant.norm == IMAGENET_NORM and not special:
        return f'efficientnet-{entry.variant}_8xb32-01norm_in1k'
    return None


def config_of(entry: Entry) -> str:
    """The path of the config of a set, below the repository."""
    name = plain_config(entry)
    folder = f'configs/{family(entry.variant)}'
    return f'{folder}/{name}.py' if name else f'{folder}/pretrained/{entry.name}.py'


def config_text(entry: Entry) -> str:
    """A child of the variant's config with the settings of one set."""
    base, lines = f'../efficientnet-{entry.variant}_8xb32_in1k.py', []
    backbone = []
    if entry.padding == 'symmetric':
        backbone += ["conv_cfg=dict(type='Conv2d')", f"norm_cfg=dict(type='BN', eps={entry.eps})"]
    parts = [f'    backbone=dict({", ".join(backbone)}),'] if backbone else []
    if entry.classes != 1000:
        parts.append(f'    head=dict(num_classes={entry.classes}),')
    if parts:
        lines += ['model = dict(', *parts, ')']
    preprocessor = []
    if entry.norm != VARIANTS[entry.variant].norm:
        preprocessor += [f'mean={list(entry.norm.mean)}', f'std={list(entry.norm.std)}']
    if entry.classes != 1000:
        preprocessor.append(f'num_classes={entry.classes}')
    if preprocessor:
        lines += ['data_preprocessor = dict(', f'    {", ".join(preprocessor)})']
    if entry.resolution != VARIANTS[entry.variant].resolution:
        lines += ['train_pipeline = [',
                  f"    dict(type='mmeffnet.LoadRandomCrop', scale={entry.resolution}, "
                  "flip_prob=0.5),",
                  "    dict(type='PackInputs'),", ']',
                  'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))']
    lines += ['test_pipeline = [', "    dict(type='LoadImageFromFile'),"]
    for transform in test_transforms(entry):
        options = ', '.join(f'{key}={value!r}' for key, value in transform.items())
        lines.append(f'    dict({options}),')
    lines += ["    dict(type='PackInputs'),", ']',
              'val_dataloader = dict(dataset=dict(pipeline=test_pipeline))',
              'test_dataloader = val_dataloader']
    return '\n'.join([f'# For the weights {entry.name}: {entry.source}',
                      '# Written by tools/make_metafiles.py.', f"_base_ = '{base}'", '', *lines,
                      ''])


def model(name: str, config: str, variant: str, resolution: int, entry: Entry | None,
          weights: str | None = None) -> str:
    """One model of a metafile. entry: the set that accuracy and classes are taken from."""
    cost = complexity(variant, resolution, num_classes=entry.classes if entry else 1000)
    lines = [f'  - Name: {name}', f'    In Collection: {FAMILIES[family(variant)][0]}',
             f'    Config: {config}', '    Metadata:', f'      FLOPs: {cost.multiply_adds}',
             f'      Parameters: {cost.parameters}']
    if entry and entry.top1:
        lines += ['    Results:', '      - Task: Image Classification',
                  '        Dataset: ImageNet-1k', '        Metrics:',
                  f'          Top 1 Accuracy: {entry.top1:g}']
        if entry.top5:
            lines.append(f'          Top 5 Accuracy: {entry.top5:g}')
    if weights:
        lines.append(f'    Weights: {weights}')
    return '\n'.join(lines) + '\n'


def metafile(folder: str) -> str:
    name, title, url = FAMILIES[folder]
    parts = [METAFILE.format(name=name, title=title, url=url)]
    for variant in (v for v in VARIANTS if family(v) == folder):
        resolution = VARIANTS[variant].resolution
        for kind, pixels, entry in evaluation_configs(variant):
            stem = f'efficientnet-{variant}_8xb32{kind}'
            parts.append(model(stem, f'configs/{folder}/{stem}.py', variant,
                               pixels or resolution, entry))
    for entry in CATALOG.values():
        if family(entry.variant) == folder:
            # mim downloads plain addresses alone; MMEngine reads the file as it is.
            weights = entry.address if entry.layout == 'mmeffnet' else f'mmeffnet://{entry.name}'
            parts.append(model(entry.name, config_of(entry), entry.variant, entry.resolution,
                               entry, weights))
    return ''.join(parts)


def evaluation_configs(variant: str):
    """The hand-written configs: the end of the name, the pixels, and the set with the accuracy."""
    sets = {entry.name.split('_')[1].removeprefix('tpu-'): entry
            for entry in find(variant=variant, layout='tensorflow')}
    best = next((sets[kind] for kind in ('aa', 'edgetpu', 'lite') if kind in sets), None)
    yield '_in1k', None, best or (sets['noisystudent'] if variant == 'l2' else None)
    if 'advprop' in sets:
        yield '-01norm_in1k', None, sets['advprop']
    if variant == 'l2':
        yield '_in1k-475px', 475, sets['noisystudent-475px']


def docs_table() -> str:
    rows = ['| name | px | input | padding | published top-1 (%) | by | licence |',
            '|---|---|---|---|---|---|---|']
    for entry in CATALOG.values():
        norm = '-1..1' if entry.norm == HALF_NORM else 'ImageNet'
        top1 = f'{entry.top1:g}' if entry.top1 else ''
        rows.append(f'| `{entry.name}` | {entry.resolution} | {norm} | {entry.padding} | {top1} | '
                    f'{entry.results_source} | {entry.licence} |')
    return '\n'.join(rows) + '\n'


def files() -> dict[Path, str]:
    """Every file that this tool writes, and its text."""
    found = {ROOT / 'configs' / folder / 'metafile.yml': metafile(folder) for folder in FAMILIES}
    found[ROOT / 'mmeffnet/.mim/model-index.yml'] = 'Import:\n' + ''.join(
        f'  - configs/{folder}/metafile.yml\n' for folder in FAMILIES)
    found |= {ROOT / config_of(entry): config_text(entry) for entry in CATALOG.values()
              if not plain_config(entry)}
    docs = ROOT / 'docs/weights.md'
    head, _, rest = docs.read_text().partition(BEGIN)
    found[docs] = head + BEGIN + docs_table() + END + rest.partition(END)[2]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='compare, and write nothing')
    args = parser.parse_args()
    if not (ROOT / 'docs').is_dir():
        sys.exit(f'error: {ROOT} is no checkout: the files that are written here lie in one')
    wanted = files()
    old = set(ROOT.glob('configs/*/pretrained/*.py')) - set(wanted)
    differ = [path for path, text in wanted.items()
              if not path.is_file() or path.read_text() != text]
    if args.check:
        sys.exit(f'not up to date: {", ".join(p.name for p in [*differ, *old])}'
                 if differ or old else 0)
    for path in differ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path])
    for path in old:
        path.unlink()
    print(f'{len(differ)} of {len(wanted)} files written, {len(old)} removed')


if __name__ == '__main__':
    main()
