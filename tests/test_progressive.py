"""The configs of progressive learning: growing images, growing regularisation, resumed within."""
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.engine.hooks import SwitchRecipeHook
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample
from peers import multiply_adds
from PIL import Image

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.engine import cli
from mmeffnet.engine.class_checks import check_mixing
from mmeffnet.errors import InputError
from mmeffnet.plugin import MIM

CONFIGS = sorted((MIM / 'configs').glob('*/*-progressive_in1k.py'))


def stages(cfg):
    """The pipelines, the epochs at which they begin, and the strengths of mixup."""
    init_default_scope(cfg.default_scope)
    hook = SwitchRecipeHook(cfg.custom_hooks[-1].schedule)
    first = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline]
    return ([first, *(recipe['train_pipeline'] for recipe in hook.schedule.values())],
            [1, *hook.schedule],
            [recipe['batch_augments'].augments[0].alpha for recipe in hook.schedule.values()])


def test_there_is_one_for_each_of_b0_to_b4():
    assert [re.search('-(b.)_', path.name)[1] for path in CONFIGS] == ['b0', 'b1', 'b2', 'b3', 'b4']


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_images_grow_to_the_size_of_the_variant_and_cost_what_the_config_says(path, tmp_path):
    arch = re.search('-(b.)_', path.name)[1]
    paper = Config.fromfile(str(path).replace('progressive', 'paper'))
    cfg = Config.fromfile(path)
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'val_dataloader'):
        assert cfg[key] == paper[key]
    pipelines, starts, mixups = stages(cfg)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 400, 3), np.uint8)).save(
        tmp_path / 'image.png')
    sizes = []
    for pipeline in pipelines:
        data = dict(img_path=str(tmp_path / 'image.png'), gt_label=1)
        for step in getattr(pipeline, 'transforms', pipeline):
            data = step(data)
        assert data['inputs'].shape[1] == data['inputs'].shape[2]
        sizes.append(data['inputs'].shape[1])
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (128, VARIANTS[arch].resolution)
    assert mixups == sorted(mixups)
    # Quarters of the training, to the epoch.
    ends = [*starts[1:], cfg.train_cfg.max_epochs + 1]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    assert sum(lengths) == 350
    assert max(lengths) - min(lengths) <= 1
    with torch.device('meta'):
        network = EfficientNet(arch)
        costs = [multiply_adds(network, size) for size in sizes]
    share = sum(cost * length for cost, length in zip(costs, lengths, strict=True)) / (
        350 * costs[-1])
    said = int(re.search(r'(\d+) % of the paper', ' '.join(path.read_text().split('\n# ')))[1])
    assert 100 * share == pytest.approx(said, abs=1)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_labels_are_mixed_as_images_are(path):
    cfg = Config.fromfile(path)
    with MODELS.switch_scope_and_registry(cfg.default_scope):
        preprocessor = MODELS.build(dict(type='ClsDataPreprocessor', **cfg.data_preprocessor))
        hook = SwitchRecipeHook(cfg.custom_hooks[-1].schedule)
    torch.manual_seed(0)
    np.random.seed(0)
    for recipe in (None, *hook.schedule.values()):
        preprocessor.batch_augments = recipe and recipe['batch_augments']
        samples = [DataSample().set_gt_label(label) for label in 4 * (3, 5)]
        images = [torch.full((3, 8, 8), 255 * label, dtype=torch.uint8) for label in 4 * (0, 1)]
        found = preprocessor(dict(inputs=images, data_samples=samples), training=True)
        scores = torch.stack([sample.gt_score for sample in found['data_samples']]).float()
        torch.testing.assert_close(scores.sum(1), torch.ones(8))
        low, high = ((value - preprocessor.mean) / preprocessor.std for value in (0, 255))
        shares = ((found['inputs'] - low) / (high - low)).mean((1, 2, 3))
        torch.testing.assert_close(scores[:, 5], shares, atol=1e-4, rtol=0)
        assert bool(((scores > 0) & (scores < 1)).any()) is bool(recipe)
    # Vectors that are not mixed give the loss of the numbers they stand for.
    with MODELS.switch_scope_and_registry(cfg.default_scope):
        head = MODELS.build(cfg.model.head)
    features = (torch.randn(8, head.in_channels), )
    preprocessor.batch_augments = None
    losses = []
    for vectors in (True, False):
        preprocessor.to_onehot = vectors
        samples = [DataSample().set_gt_label(label) for label in 4 * (3, 5)]
        found = preprocessor(dict(inputs=images, data_samples=samples), training=True)
        head.eval()  # no dropout
        losses.append(head.loss(features, found['data_samples'])['loss'])
    torch.testing.assert_close(*losses)


def test_mixing_that_would_do_nothing_is_refused(tiny_config, tmp_path, monkeypatch, capsys):
    from mmeffnet.engine import run
    monkeypatch.chdir(tmp_path)
    path = tiny_config(
        'custom_hooks = [*_base_.custom_hooks, dict(type="SwitchRecipeHook", schedule=[',
        '    dict(action_epoch=2, batch_augments=dict(augments=dict(type="Mixup", alpha=0.2)))])]',
        'data_preprocessor = dict(to_onehot=False)')
    for options, words in (
            ([], 'from epoch 2 on SwitchRecipeHook would mix images, .* set .*to_onehot=True'),
            (['data_preprocessor.to_onehot=True', 'data_preprocessor.num_classes=7'],
             'data_preprocessor.num_classes=7, which .* the model has 10: set data_prep.*=10')):
        with pytest.raises(SystemExit):
            run.train(cli.parse(cli.train_parser(), [path, *(
                ['--cfg-options', *options] if options else [])]))
        assert re.search(words, capsys.readouterr().err)


def test_scores_of_the_data_set_are_mixed_as_they_are():
    hook = SwitchRecipeHook([dict(action_epoch=2, batch_augments=dict(
        augments=dict(type='Mixup', alpha=0.2)))])
    model = SimpleNamespace(head=SimpleNamespace(num_classes=2),
                            data_preprocessor=SimpleNamespace(to_onehot=False, num_classes=None))

    class Scored(list):
        get_data_info = list.__getitem__

    check_mixing(model, [hook], Scored([dict(gt_score=[0.5, 0.5])]))
    with pytest.raises(InputError, match='to_onehot=True'):
        check_mixing(model, [hook], Scored([dict(gt_label=1)]))


@pytest.mark.slow
def test_a_run_switches_and_resumes_within_a_stage(tiny_config, tmp_path, monkeypatch, capsys):
    from mmeffnet.engine import run
    monkeypatch.chdir(tmp_path)
    path = tiny_config(
        "later = [dict(type='Resize', scale=(24, 24)), dict(type='PackInputs')]",
        "custom_hooks = [*_base_.custom_hooks, dict(type='SwitchRecipeHook', schedule=[",
        "    dict(action_epoch=2, train_pipeline=later, batch_augments=dict(",
        "        augments=dict(type='Mixup', alpha=0.2)))])]",
        'data_preprocessor = dict(to_onehot=True)',
        'train_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dict('
        'indices=128))',
        'val_dataloader = dict(dataset=dict(indices=64))',
        'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2, '
        'save_best=None, max_keep_ckpts=-1))',
        'randomness = dict(seed=3)', 'train_cfg = dict(max_epochs=3)')
    run.train(cli.parse(cli.train_parser(), [path, '--work-dir', 'whole']))
    assert 'Switch train pipeline at epoch 2.' in capsys.readouterr().out
    run.train(cli.parse(cli.train_parser(), [
        path, '--work-dir', 'part', '--resume', 'whole/iter_6.pth']))  # half of the second epoch
    whole, part = (torch.load(tmp_path / name / 'iter_12.pth', weights_only=True)
                   for name in ('whole', 'part'))
    for key, value in whole['ema_state_dict'].items():
        assert torch.equal(value, part['ema_state_dict'][key]), key
