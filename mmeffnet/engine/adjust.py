"""What the flags of the command lines change in a config."""
import os
from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict

from mmeffnet.engine.saving import newest_checkpoint
from mmeffnet.errors import InputError
from mmeffnet.weights.data import dataset_configs

MMENGINES_WRAPPER = 'MMDistributedDataParallel'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

# How the visualization hook of each project is told to draw, and where to: mmseg's writes where
# the visualizer does. Last the visualizer that draws, where ours knows labels of images alone.
DRAWING = {'mmpretrain': ('enable', 'out_dir', None),
           'mmdet': ('draw', 'test_out_dir', 'DetLocalVisualizer'),
           'mmseg': ('draw', None, 'SegLocalVisualizer')}

# Test-time augmentation of a classifier whose config says nothing of it.
FLIP_TTA = dict(model=dict(type='mmpretrain.AverageClsScoreTTA'),
                flips=[dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)])


def dataloaders(cfg: Config, pin_memory: bool | None, persistent: bool | None) -> None:
    """Fill in how batches are loaded; None leaves the choice to config and device."""
    for name in LOADERS:
        loader = cfg.get(name)
        if not loader:
            continue
        if pin_memory is not None:
            loader.pin_memory = pin_memory
        if not loader.get('num_workers'):
            loader.persistent_workers = False  # PyTorch refuses it without workers
        elif persistent is not None:
            loader.persistent_workers = persistent
        # mmpretrain leaves this to its tools; detectors need the other one. Not in our configs:
        # MMEngine trips over it in a config that is inherited by name.
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('persistent_workers', bool(loader.get('num_workers')))
            if pin_memory is None:
                loader.setdefault('pin_memory', torch.cuda.is_available())


# What any project's run is given here, as configs/_base_/default_runtime.py has it.
HOOKS = dict(
    any_weights='mmeffnet.AnyWeightsHook', exact_resume='mmeffnet.ExactResumeHook',
    plain_checkpoint='mmeffnet.PlainCheckpointHook', samples='mmeffnet.SamplesHook',
    non_finite='mmeffnet.NonFiniteHook', sigterm='mmeffnet.SigtermHook',
    changed_recipe='mmeffnet.ChangedRecipeHook')


def surviving(cfg: Config) -> None:
    """Let any project's run read any weights, keep whole plain files and resume anywhere."""
    hooks = cfg.setdefault('default_hooks', {})
    for name, kind in HOOKS.items():
        hooks.setdefault(name, dict(type=kind))
    checkpoint = hooks.get('checkpoint')
    if checkpoint and checkpoint.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook'):
        checkpoint.type = 'mmeffnet.CheckpointHook'
    loop = cfg.get('train_cfg')
    if loop and (loop.get('by_epoch') and 'type' not in loop
                 or loop.get('type') == 'EpochBasedTrainLoop'):
        loop.pop('by_epoch', None)
        loop.type = 'mmeffnet.EpochBasedTrainLoop'


def processes_on_cpu(cfg: Config) -> None:
    """Let several processes train without CUDA, where MMEngine would name a GPU for each."""
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
    if wrapper.get('type', MMENGINES_WRAPPER) == MMENGINES_WRAPPER:
        wrapper = {**wrapper, 'type': 'mmeffnet.HostDataParallel'}
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}


def for_training(cfg: Config, args: Namespace) -> None:
    """Apply --no-validate, --amp, --accumulate, --resume and --auto-scale-lr."""
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'model'):
        if not cfg.get(key):
            raise InputError(f'config {args.config!r} has no {key!r}: it cannot be trained')
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if cfg.get('val_dataloader'):
        _check_intervals(cfg.train_cfg)
    if args.amp:
        _mixed_precision(cfg.optim_wrapper)
    if args.accumulate:
        cfg.optim_wrapper.accumulative_counts = args.accumulate
    if accumulated(cfg) > 1:
        cfg.setdefault('default_hooks', {}).step_averages = dict(type='mmeffnet.StepAveragesHook')
    if args.resume is not None:
        _check_no_folder(args.resume)
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise InputError(f'config {args.config!r} does not say what batch size its learning '
                             'rate is for: set auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if (cfg.get('auto_scale_lr') or {}).get('enable'):
        # MMEngine compares it with the images of one pass.
        cfg.auto_scale_lr.base_batch_size /= accumulated(cfg)


def _check_intervals(loop: ConfigDict) -> None:
    """Refuse what MMEngine divides by: 0 ends its run after the first epoch, -1 means 1 there."""
    fields = dict(val_interval=loop.get('val_interval')) | {
        f'dynamic_intervals.{number}': entry[-1]
        for number, entry in enumerate(loop.get('dynamic_intervals') or ())}
    for field, value in fields.items():
        if isinstance(value, (int, float)) and value < 1:
            raise InputError(f'train_cfg.{field}: an interval of {value} must be at least 1; '
                             '--no-validate trains without validations')


def _check_no_folder(path: str) -> None:
    """Name the checkpoint that a folder given to --resume would go on from."""
    if path not in ('', 'auto') and Path(path).is_dir():
        newest = newest_checkpoint(path)
        raise InputError(f'--resume {path!r} is a folder: ' + (
            f'give {str(newest)!r}, the newest in it that can be resumed' if newest else
            'no checkpoint in it can be resumed'))


def accumulated(cfg: Config) -> int:
    """How many batches of a config make one step."""
    return cfg.optim_wrapper.get('accumulative_counts', 1)


def _mixed_precision(wrapper: ConfigDict) -> None:
    known = ('OptimWrapper', 'AmpOptimWrapper', 'mmeffnet.AmpOptimWrapper')
    if wrapper.get('type', 'OptimWrapper') not in known:
        raise InputError(f'optim_wrapper.type={wrapper.type!r}: --amp works with {known}')
    for key in ('dtype', 'loss_scale'):
        wrapper.pop(key, None)
    wrapper.update(type='mmeffnet.AmpOptimWrapper', precision='mixed')


def for_testing(cfg: Config, args: Namespace) -> None:
    """Apply the checkpoint, --amp, --show, --show-dir and --tta."""
    for key in ('test_dataloader', 'test_evaluator', 'model'):
        if not cfg.get(key):
            raise InputError(f'config {args.config!r} has no {key!r}: it cannot be tested')
    cfg.load_from, cfg.resume = args.checkpoint, False
    cfg.test_cfg = cfg.get('test_cfg') or ConfigDict()
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        _draw(cfg, args)
    if args.tta:
        _augment(cfg)


def _draw(cfg: Config, args: Namespace) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise InputError('--show and --show-dir need a hook that draws: set '
                         "default_hooks.visualization=dict(type='VisualizationHook')")
    draw, out_dir, visualizer = DRAWING.get(cfg.get('default_scope'), DRAWING['mmdet'])
    # mmdet takes another path for one within a new folder of the work dir.
    folder = args.show_dir and os.path.abspath(args.show_dir)
    place = Path(args.show_dir or '')
    file = next((part for part in (place, *place.parents) if part.is_file()), None)
    if file:
        raise InputError(f'--show-dir {args.show_dir!r}: {str(file)!r} is a file; name a folder')
    hook.update({draw: True, 'show': args.show, 'wait_time': args.wait_time,
                 'interval': args.interval})
    if visualizer and (cfg.get('visualizer') or {}).get('type') in (
            None, 'mmeffnet.RunVisualizer'):
        cfg.visualizer = ConfigDict(type=visualizer)
    if out_dir:
        hook[out_dir] = folder
    elif folder:
        cfg.visualizer.setdefault('vis_backends', [dict(type='LocalVisBackend')])
        cfg.visualizer.save_dir = folder


def _augment(cfg: Config) -> None:
    """In each data set of the test, within wrappers too."""
    # A config may name one of them several times.
    datasets = {id(dataset): dataset
                for _, dataset in dataset_configs(cfg, 'test_dataloader')}.values()
    if not datasets:
        raise InputError('--tta: test_dataloader has no data set whose pipeline could be set')
    given = 'tta_model' in cfg and 'tta_pipeline' in cfg
    if not given:
        if cfg.get('default_scope') != 'mmpretrain' or not all(
                dataset.get('pipeline') for dataset in datasets):
            raise InputError('--tta needs tta_model and tta_pipeline in the config')
        cfg.tta_model = ConfigDict(deepcopy(FLIP_TTA['model']))
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline if given else [*dataset.pipeline[:-1], dict(
            type='TestTimeAug', transforms=[FLIP_TTA['flips'], [dataset.pipeline[-1]]])]
