"""Every shipped config loads, dumps, reloads, builds, and says what the variant table says."""
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS
from peers import multiply_adds

from mmeffnet.plugin import MIM
from mmeffnet.variants import DROP_PATH_RATE, HALF_NORM, VARIANTS

ROOT = MIM / 'configs'
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('[!_]*/*.py')
                 # Those of detectors and segmenters are looked at in folders of their own.
                 if 'configs/quickstart/efficientnet' in str(p)
                 or p.parent.name not in ('detection', 'segmentation', 'quickstart'))
PRETRAINED = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('*/pretrained/*.py'))
IMAGENET = [name for name in CONFIGS if '_8xb32' in name]
PAPER = [name for name in CONFIGS if '-paper_' in name]
NAME = re.compile(r'efficientnet-(?P<arch>\w+)_8xb32(?P<norm>-01norm)?_in1k(-(?P<px>\d+)px)?\.py')
FAMILIES = dict(b='efficientnet', l='efficientnet', e='efficientnet_edgetpu',
                lite='efficientnet_lite')


def load(name):
    return Config.fromfile(ROOT / name)


@functools.cache
def build(name):
    """The classifier of a config without its memory: shapes only."""
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    model = {**cfg.model, 'data_preprocessor': cfg.data_preprocessor}
    with torch.device('meta'):
        return MODELS.build(model)


def test_every_variant_has_a_config_of_at_most_fifteen_lines():
    for arch in VARIANTS:
        family = FAMILIES['lite' if arch.startswith('lite') else arch[0]]
        path = ROOT / family / f'efficientnet-{arch}_8xb32_in1k.py'
        assert len(path.read_text().splitlines()) <= 15, path.name
    assert len(IMAGENET) == len(VARIANTS) + 9 + 1  # and b0-b8 for AdvProp, and l2 at 475


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_survives_dumping_and_builds(name, tmp_path):
    cfg = load(name)
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()
    model = build(name)
    assert model.head.num_classes == again.data_preprocessor.num_classes


@pytest.mark.parametrize('name', IMAGENET)
def test_file_name_network_crops_and_normalisation_agree_with_the_table(name):
    found = NAME.fullmatch(Path(name).name)
    variant, cfg = VARIANTS[found['arch']], load(name)
    pixels = int(found['px'] or variant.resolution)
    assert cfg.model.backbone.arch == cfg.model.head.arch == found['arch']
    assert [t.type for t in cfg.train_dataloader.dataset.pipeline] == [
        'mmeffnet.LoadRandomCrop', 'PackInputs']
    assert cfg.train_dataloader.dataset.pipeline[0].scale == pixels
    assert cfg.train_dataloader.dataset.pipeline[0].flip_prob == 0.5
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert [t.type for t in loader.dataset.pipeline] == [
            'LoadImageFromFile', 'EfficientNetCenterCrop', 'PackInputs']
        assert loader.dataset.pipeline[1].crop_size == pixels
        assert (loader.dataset.type, loader.dataset.split) == ('ImageNet', 'val')
    norm = HALF_NORM if found['norm'] else variant.norm
    assert tuple(cfg.data_preprocessor.mean) == norm.mean
    assert tuple(cfg.data_preprocessor.std) == norm.std
    assert cfg.data_preprocessor.to_rgb is True
    head = build(name).head
    assert head.fc.in_features == variant.arch.head
    assert head.dropout.p == variant.dropout


def test_every_network_but_l2_has_the_papers_recipe():
    found = {re.fullmatch(r'.*/efficientnet-(\w+)_8xb256-paper_in1k.py', n)[1] for n in PAPER}
    assert found == set(VARIANTS) - {'l2'}  # which was trained on images that are not public


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_recipe_is_in_its_configs(name):
    cfg, arch = load(name), re.search(r'efficientnet-(\w+)_8xb256', name)[1]
    variant = VARIANTS[arch]
    assert cfg.model.backbone.arch == cfg.model.head.arch == arch
    assert cfg.model.backbone.drop_path_rate == DROP_PATH_RATE
    assert build(name).head.dropout.p == variant.dropout
    assert cfg.model.head.loss.to_dict() == dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    pipeline = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert ('AutoAugment' in pipeline) == name.startswith('efficientnet/')
    assert cfg.train_dataloader.dataset.pipeline[0].scale == variant.resolution
    assert cfg.test_dataloader.dataset.pipeline[1].crop_size == variant.resolution
    assert tuple(cfg.data_preprocessor.mean) == variant.norm.mean
    batch = 8 * cfg.train_dataloader.batch_size
    assert batch == cfg.auto_scale_lr.base_batch_size == 2048
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.016 * batch / 256)


def test_crops_are_bicubic_and_of_the_efficientnet_kind():
    cfg = load('efficientnet/efficientnet-b2_8xb32_in1k.py')
    init_default_scope('mmpretrain')
    random, center = (MMPRETRAIN_TRANSFORMS.build(step) for step in (
        cfg.train_dataloader.dataset.pipeline[0], cfg.test_dataloader.dataset.pipeline[1]))
    assert (random.interpolation, center.interpolation) == ('bicubic', 'bicubic')
    assert (center.crop_size, center.crop_padding) == (260, 32)
    # Of a 400 x 300 photograph the test sees the centre 266 x 266: 300 * 260 / (260 + 32).
    ramp = np.broadcast_to(np.arange(400, dtype=np.float32)[None, :, None], (300, 400, 3))
    seen = center(dict(img=ramp.copy()))['img']
    assert seen.shape == (260, 260, 3)
    assert seen[130, 0, 0] == pytest.approx((400 - 267) / 2, abs=2)
    assert seen[130, -1, 0] == pytest.approx((400 + 267) / 2, abs=2)


def test_the_data_folder_comes_from_the_environment_or_is_data_imagenet(monkeypatch):
    monkeypatch.delenv('IMAGENET', raising=False)
    name = 'efficientnet/efficientnet-b0_8xb32_in1k.py'
    assert load(name).train_dataloader.dataset.data_root == 'data/imagenet'
    monkeypatch.setenv('IMAGENET', '/disk/imagenet')
    cfg = load(name)
    assert cfg.train_dataloader.dataset.data_root == '/disk/imagenet'
    assert cfg.val_dataloader.dataset.data_root == '/disk/imagenet'


def test_the_runtime_follows_the_device(monkeypatch):
    name = 'efficientnet/efficientnet-b0_8xb32_in1k.py'
    for cuda, backend in ((True, 'nccl'), (False, 'gloo')):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda cuda=cuda: cuda)
        cfg = load(name)
        assert cfg.env_cfg.dist_cfg.backend == backend
        assert cfg.env_cfg.cudnn_benchmark is True
        assert cfg.optim_wrapper.type == 'mmeffnet.AmpOptimWrapper'


def test_placeholder_schedules_say_so():
    text = (ROOT / '_base_/schedules/imagenet_bs256_sgd.py').read_text()
    assert text.startswith('# A placeholder')


def metafile_models():
    index = yaml.safe_load((MIM / 'model-index.yml').read_text())
    for part in index['Import']:
        yield from yaml.safe_load((MIM / part).read_text())['Models']


def test_the_model_index_lists_every_config_once_with_its_cost():
    # Beside them are the published sets of weights (tests/weights/test_catalog_settings.py).
    models = {m['Config'].removeprefix('configs/'): m for m in metafile_models()
              if 'Weights' not in m}
    assert sorted(models) == sorted(IMAGENET)
    costs = {}  # of the network just before where only the normalisation differs
    for name, entry in models.items():
        assert entry['Name'] == Path(name).stem
        model = build(name)
        pixels = load(name).test_dataloader.dataset.pipeline[1].crop_size
        assert entry['Metadata']['Parameters'] == sum(p.numel() for p in model.parameters())
        if '-01norm' not in name:
            costs[model.backbone.arch] = multiply_adds(model, pixels)
        assert entry['Metadata']['FLOPs'] == costs[model.backbone.arch], name


@pytest.mark.parametrize('name', PRETRAINED)
def test_a_config_for_one_set_of_weights_builds(name):
    model = build(name)
    assert model.head.num_classes == load(name).data_preprocessor.num_classes


def test_mmengine_finds_configs_by_name():
    from mmengine.hub import get_config
    cfg = get_config('mmeffnet::efficientnet/efficientnet-b3_8xb32_in1k.py')
    assert cfg.model.backbone.arch == 'b3'
