"""A config that is inherited by name means what it means by its path: the same classes."""
from importlib.util import find_spec

import pytest
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmeffnet
from mmeffnet.version import EXTRAS

# Of each folder and kind of network, and every quickstart: what each needs.
CONFIGS = {
    'efficientnet/efficientnet-b0_8xb256-paper_in1k.py': (),
    'efficientnet/pretrained/efficientnet-b0_torchvision-v1_in1k.py': (),
    'efficientnet_edgetpu/efficientnet-es_8xb32_in1k.py': (),
    'efficientnet_lite/efficientnet-lite0_8xb32_in1k.py': (),
    'finetune/efficientnet-b0_custom.py': (),
    'quickstart/efficientnet-b0_digits.py': (),
    'quickstart/efficientnet-b0_digits-paper.py': (),
    'quickstart/fpn_effb0_digits.py': ('mmseg', ),
    'quickstart/retinanet_effb0_digits.py': ('mmdet', 'mmcv._ext'),
    'scaling/mobilenet_v2/mobilenet-v2-compound_in1k.py': (),
    'scaling/resnet50/resnet50-d4_in1k.py': (),
    'detection/retinanet_effb0_fpn_1x_coco.py': ('mmdet', 'mmcv._ext'),
    'detection/mask-rcnn_effb3_fpn_1x_coco.py': ('mmdet', 'mmcv._ext'),
    'detection/efficientdet_d0_8xb16-crop512-300e_coco.py': ('mmdet', 'mmcv._ext'),
    'segmentation/fpn_effb0_4xb4-160k_ade20k-512x512.py': ('mmseg', ),
    'segmentation/deeplabv3plus_effb0-d8_4xb4-80k_ade20k-512x512.py': ('mmseg', ),
    'segmentation/upernet_effb0_4xb4-160k_ade20k-512x512.py': ('mmseg', ),
}


@pytest.fixture(params=CONFIGS)
def configs(request, tmp_path):
    """A shipped config as a child by name has it, and as it is by path."""
    for module in CONFIGS[request.param]:
        if find_spec(module) is None:
            pytest.skip(f'needs {module}: {EXTRAS[module.partition(".")[0]]}')
    (tmp_path / 'child.py').write_text(f"_base_ = 'mmeffnet::{request.param}'\n")
    by_path = Config.fromfile(mmeffnet.config_path(request.param))
    return Config.fromfile(tmp_path / 'child.py'), by_path


def class_of(kind, part):
    """The class that a part of a config is built of, by the registry of its kind."""
    with kind.switch_scope_and_registry(part.get('_scope_')) as found:
        return found.get(part['type'])


def parts(cfg):
    """What a Runner builds beside the model: kind and config."""
    for stage in ('train', 'val', 'test'):
        loader = cfg[f'{stage}_dataloader']
        yield registry.DATASETS, loader.dataset
        yield registry.DATA_SAMPLERS, loader.sampler
        if 'type' in cfg[f'{stage}_cfg']:
            yield registry.LOOPS, cfg[f'{stage}_cfg']
    yield registry.METRICS, cfg.val_evaluator
    yield registry.VISUALIZERS, cfg.visualizer
    yield registry.OPTIM_WRAPPERS, cfg.optim_wrapper
    yield from ((registry.HOOKS, hook) for hook in cfg.default_hooks.values())
    yield from ((registry.HOOKS, hook) for hook in cfg.get('custom_hooks', ()))
    schedule = cfg.param_scheduler
    yield from ((registry.PARAM_SCHEDULERS, part) for part in (
        schedule if isinstance(schedule, list) else [schedule]))


def seen(cfg):
    """Classes of the model's modules, of the transforms of each pipeline and of other parts."""
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded here
    modules = [type(module) for module in registry.MODELS.build(cfg.model).modules()]
    transforms = []
    for stage in ('train', 'test'):
        dataset = cfg[f'{stage}_dataloader'].dataset
        with registry.DATASETS.switch_scope_and_registry(dataset.get('_scope_')):
            transforms += [class_of(registry.TRANSFORMS, step) for step in dataset.pipeline]
    return modules, transforms, [class_of(*part) for part in parts(cfg)]


def test_a_config_inherited_by_name_builds_the_same_classes(configs):
    (modules, transforms, others), (same, read, theirs) = map(seen, configs)
    assert len(same) > 50
    assert modules == same
    assert len(read) > 2
    assert transforms == read
    assert None not in others + theirs
    # In our scope MMEngine's hooks and loops without prefix are what we have made of them.
    assert all(one is other or issubclass(one, other)
               for one, other in zip(others, theirs, strict=True))


@pytest.mark.parametrize(('scope', 'name', 'module'), [
    ('mmdet', 'LoadAnnotations', 'mmdet'), ('mmseg', 'LoadAnnotations', 'mmseg'),
    ('mmpretrain', 'LoadAnnotations', 'mmcv'), ('mmeffnet', 'LoadAnnotations', 'mmcv'),
    ('mmdet', 'RandomCrop', 'mmdet'), ('mmseg', 'RandomCrop', 'mmseg'),
    ('mmpretrain', 'RandomCrop', 'mmpretrain'), ('mmeffnet', 'RandomCrop', 'mmpretrain'),
    ('mmdet', 'LoadRandomCrop', 'mmeffnet'), ('mmseg', 'PackInputs', 'mmpretrain')])
def test_a_name_of_several_packages_is_that_of_the_runs_scope(scope, name, module):
    if scope != 'mmeffnet':
        pytest.importorskip(scope)
    init_default_scope('mmseg' if scope == 'mmdet' else 'mmdet')  # of another run in this process
    init_default_scope(scope)
    found = class_of(registry.TRANSFORMS, dict(type=name, _scope_='mmeffnet'))
    assert found.__module__.partition('.')[0] == module


def test_a_part_inside_of_another_package_follows_that_package():
    pytest.importorskip('mmseg')
    init_default_scope('mmpretrain')
    with registry.DefaultScope.overwrite_default_scope('mmseg'):
        part = class_of(registry.TRANSFORMS, dict(type='RandomCrop', _scope_='mmeffnet'))
    assert part.__module__.startswith('mmseg.')
