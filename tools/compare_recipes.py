#!/usr/bin/env python
"""Train B0 on the digits by three recipes and print the accuracies side by side.

Ours: configs/quickstart/efficientnet-b0_digits-paper.py. mmpretrain: its EfficientNet in its
config for ImageNet, whose 100 epochs are compressed into the same budget. timm: its network, its
RMSpropTF, averaged weights and step schedule with the same numbers, in a loop as timm's own.
All three see the same images, batches of 32 and number of steps. Prints the table of
docs/training.md; runs of as many epochs that are in --out already are not repeated.
"""
import argparse
import json
import re
import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, set_random_seed
from rich.progress import track

import mmeffnet
from mmeffnet.engine import adjust, cli, run
from mmeffnet.errors import one_line_errors

SANITY = 'quickstart/efficientnet-b0_digits-paper.py'


def our_config(options: dict) -> Config:
    cfg = Config.fromfile(mmeffnet.config_path(SANITY))
    cfg.merge_from_dict(options)
    adjust.dataloaders(cfg, pin_memory=None, persistent=None)
    return cfg


def curve(work_dir: Path) -> list[float]:
    """What a run wrote: per cent top-1 after each epoch."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in newest.read_text().splitlines()]
    return [line['accuracy/top1'] for line in lines if 'accuracy/top1' in line]


def train_mmpretrain(ours: Config, work_dir: Path) -> list[float]:
    """mmpretrain's config for B0, with the data and the number of epochs of ours."""
    theirs = Config.fromfile(str(Path(
        __import__('mmpretrain').__file__).parent / '.mim/configs/efficientnet'
        / 'efficientnet-b0_8xb32_in1k.py'))
    share = ours.train_cfg.max_epochs / theirs.train_cfg.max_epochs
    theirs.model.head.num_classes = 10
    ours.model = theirs.model
    ours.optim_wrapper = theirs.optim_wrapper
    ours.optim_wrapper.optimizer.lr *= (
        ours.train_dataloader.batch_size / theirs.auto_scale_lr.base_batch_size)
    ours.param_scheduler = dict(
        theirs.param_scheduler, convert_to_iter_based=True,
        milestones=[round(m * share, 4) for m in theirs.param_scheduler.milestones])
    ours.custom_hooks = []
    ours.work_dir, ours.experiment_name = str(work_dir), work_dir.name
    Runner.from_cfg(ours).train()
    return curve(work_dir)


def train_timm(cfg: Config) -> list[float]:
    """timm's network, optimizer, schedule and averaged weights on the data of ``cfg``."""
    from mmpretrain.registry import MODELS
    from timm import create_model
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import StepLRScheduler
    from timm.utils import ModelEmaV3
    seed = set_random_seed(cfg.randomness.seed)
    train, val = (Runner.build_dataloader(cfg[f'{part}_dataloader'], seed=seed)
                  for part in ('train', 'val'))
    prepare = MODELS.build(dict(type='ClsDataPreprocessor', **cfg.data_preprocessor))
    device = get_device()
    prepare.to(device)
    model = create_model('tf_efficientnet_b0', num_classes=10, drop_path_rate=0.2,
                         drop_rate=mmeffnet.VARIANTS['b0'].dropout).to(device)
    rule, steps = cfg.optim_wrapper.optimizer, len(train)
    optimizer = create_optimizer_v2(model, opt='rmsproptf', lr=rule.lr, alpha=rule.alpha,
                                    momentum=rule.momentum, eps=rule.eps,
                                    weight_decay=rule.weight_decay)
    stairs = cfg.param_scheduler
    schedule = StepLRScheduler(
        optimizer, decay_t=stairs.step * steps, decay_rate=stairs.gamma, warmup_t=steps,
        warmup_lr_init=1e-6, warmup_prefix=False, t_in_epochs=False)
    average = ModelEmaV3(model, decay=0.9999, use_warmup=True)
    loss, done, accuracies = LabelSmoothingCrossEntropy(0.1), 0, []
    for epoch in track(range(cfg.train_cfg.max_epochs), 'timm'):
        train.sampler.set_epoch(epoch)
        model.train()
        for batch in train:
            batch = prepare(batch, training=True)
            optimizer.zero_grad()
            loss(model(batch['inputs']),
                 torch.cat([s.gt_label for s in batch['data_samples']])).backward()
            optimizer.step()
            done += 1
            average.update(model, step=done)
            schedule.step_update(num_updates=done)
        accuracies.append(accuracy(average.module, val, prepare, cfg))
    return accuracies


@torch.no_grad()
def accuracy(model: torch.nn.Module, loader, prepare, cfg: Config) -> float:
    """Per cent top-1, by the metric that the configs have."""
    evaluator = Evaluator(cfg.val_evaluator)
    model.eval()
    for batch in loader:
        batch = prepare(batch, training=False)
        samples = [sample.set_pred_score(score) for sample, score in zip(
            batch['data_samples'], model(batch['inputs']).softmax(1), strict=True)]
        evaluator.process(data_samples=samples, data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))['accuracy/top1']


# Variations of ours: what flags and settings leave of the accuracy.
OURS = {
    'ours': [],
    'ours, float32': ['--cfg-options', 'optim_wrapper.precision=float32'],
    'ours, --amp': ['--amp'],
    'ours, float16': ['--cfg-options', 'optim_wrapper.precision=float16'],
    'ours, --compile': ['--compile'],
    'ours, --channels-last': ['--channels-last'],
    'ours, --accumulate 2': ['--accumulate', '2', '--cfg-options',
                             'train_dataloader.batch_size=16'],
    'ours, recomputed blocks': ['--cfg-options', 'model.backbone.with_cp=True'],
    'ours, all of these': [
        '--amp', '--compile', '--channels-last', '--accumulate', '2', '--cfg-options',
        'train_dataloader.batch_size=16', 'model.backbone.with_cp=True'],
}
RECIPES = (*OURS, 'mmpretrain', 'timm')


def train_ours(flags: list[str], options: dict, work_dir: Path) -> list[float]:
    """By the command line of tools/train.py."""
    if '--cfg-options' not in flags:
        flags = [*flags, '--cfg-options']
    run.train(cli.parse(cli.train_parser(), [
        mmeffnet.config_path(SANITY), '--work-dir', str(work_dir), *flags,
        *(f'{key}={value}' for key, value in options.items())]))
    return curve(work_dir)


def accuracies(recipe: str, seed: int, epochs: int, work_dir: Path) -> list[float]:
    """Per cent top-1 after each epoch of a run."""
    options = {'randomness.seed': seed, 'default_hooks.checkpoint.interval': -1,
               'default_hooks.checkpoint.save_best': None, 'train_cfg.max_epochs': epochs}
    if recipe in OURS:
        return train_ours(OURS[recipe], options, work_dir)
    cfg = our_config(options)
    return train_timm(cfg) if recipe == 'timm' else train_mmpretrain(cfg, work_dir)


def table(results: dict, epochs: int) -> str:
    """Rows of Markdown: last top-1 of each seed, mean and spread, and the first epochs."""
    rows = ['| recipe | top-1 (%) by seed | mean | spread | mean after 1/4, 1/2, 3/4 of it |',
            '|---|---|---|---|---|']
    for recipe in RECIPES:
        runs = [result['top1'] for key, result in results.items()
                if key.startswith(f'{recipe}:') and key.endswith(f':{epochs}')]
        if not runs:
            continue
        last = [top1[-1] for top1 in runs]
        parts = [epochs * quarter // 4 for quarter in (1, 2, 3)]
        early = [f'{statistics.mean(top1[part - 1] for top1 in runs):.1f}' if part else '-'
                 for part in parts]
        rows.append(f'| {recipe} | {", ".join(f"{x:.2f}" for x in last)} '
                    f'| {statistics.mean(last):.2f} | {max(last) - min(last):.2f} '
                    f'| {", ".join(early)} |')
    return '\n'.join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--recipes', nargs='+', default=['ours', 'mmpretrain', 'timm'],
                        choices=RECIPES)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--epochs', type=cli.positive, help='fewer epochs, to try this tool',
                        default=our_config({}).train_cfg.max_epochs)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/recipes'))
    args = parser.parse_args()
    with one_line_errors(go_on='the same command goes on after the runs that are in --out'):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Make the runs that are not in --out, and print the table after each."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / 'results.json'
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed in args.seeds:
        for recipe in args.recipes:
            key = f'{recipe}:{seed}:{args.epochs}'
            if key not in results:
                start = time.monotonic()
                name = re.sub('[^a-z0-9]+', '_', key)
                top1 = accuracies(recipe, seed, args.epochs, args.out / name)
                results[key] = dict(top1=top1, seconds=round(time.monotonic() - start))
                file.write_text(json.dumps(results, indent=1))
            print(table(results, args.epochs), flush=True)


if __name__ == '__main__':
    main()
