"""Training and testing from a command line: check everything first, then run."""
import logging
import math
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmeffnet import host
from mmeffnet.engine import adjust, execution, pretrained, results
from mmeffnet.engine.amp import keep_in_float32
from mmeffnet.engine.checkpoint import bare_model, load_whole
from mmeffnet.engine.class_checks import check_mixing, check_same_classes, warn_of_names
from mmeffnet.engine.config import explain, load_config
from mmeffnet.engine.data_checks import build_problem, check_dataset
from mmeffnet.engine.evaluator_checks import check_evaluator
from mmeffnet.engine.saving import claim
from mmeffnet.engine.workers import let_workers_outlast, named_when_dead
from mmeffnet.errors import InputError, RunError, one_line_errors
from mmeffnet.export.evaluation import take_over
from mmeffnet.export.runtime import is_exported
from mmeffnet.pyramid import check_model
from mmeffnet.weights.addresses import WEIGHTS_ONLY


def train(args: Namespace) -> None:
    """tools/train.py. Exits with 2 and one line where the input is wrong."""
    with one_line_errors(go_on='--resume goes on from the newest checkpoint in the work dir'):
        cfg = _prepare(args)
        adjust.for_training(cfg, args)
        adjust.surviving(cfg)
        with claim(cfg.work_dir):
            checkpoint = pretrained.for_training(cfg)
            runner = _build(cfg, ['train', 'val'])
            if checkpoint:
                load_whole(checkpoint, bare_model(runner.model))
            for wanted, change in ((args.channels_last, execution.channels_last),
                                   (args.compile, execution.compile_network)):
                if wanted:
                    change(bare_model(runner.model))
            if args.compile:
                runner.register_hook(execution.CompiledStepHook())
            _notice_batch_size(cfg)
            _start(runner.train, runner, cfg)
        _leave_processes()


def test(args: Namespace) -> None:
    """tools/test.py. Exits with 2 and one line where the input is wrong.

    An exported file may take the checkpoint's place.
    """
    with one_line_errors():
        results.check_output(args.out, args.out_item)
        cfg = _prepare(args)
        adjust.for_testing(cfg, args)
        adjust.surviving(cfg)
        exported = is_exported(cfg.load_from)
        if not exported:
            pretrained.for_testing(cfg)
        checkpoint, cfg.load_from = cfg.load_from, None if exported else cfg.load_from
        runner = _build(cfg, ['test'])
        model = bare_model(runner.model)
        names = (take_over(model, checkpoint, cfg) if exported else load_whole(checkpoint, model))
        if args.amp:
            keep_in_float32(model)
        warn_of_names(runner.test_dataloader.dataset, 'test_dataloader', model, names, checkpoint)
        if args.out and args.out_item != 'metrics':
            runner.test_evaluator.metrics.append(results.DumpResults(args.out))
        metrics = _start(runner.test, runner, cfg)
        if args.out and args.out_item == 'metrics':
            results.write_metrics(metrics, Path(args.out))
        _leave_processes()


def _prepare(args: Namespace) -> Config:
    """The config with what both commands change in it."""
    # Loaders that fall back to unpickling on their own are stopped by this.
    os.environ[WEIGHTS_ONLY] = '1'
    if getattr(args, 'show', False) or getattr(args, 'show_dir', None):
        # Visualizers of all projects draw names of classes, and one with two $ is no formula.
        matplotlib.rcParams['text.parse_math'] = False
    if not torch.cuda.is_available():
        host.keep_freed_memory()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    adjust.dataloaders(cfg, pin_memory=False if args.no_pin_memory else None,
                       persistent=False if getattr(args, 'no_persistent_workers', 0) else None)
    _start_processes(cfg, args.launcher)
    return cfg


def _start_processes(cfg: Config, launcher: str) -> None:
    """Without CUDA, join the process group here: MMEngine's way selects a GPU first."""
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise InputError(f'--launcher {launcher} needs CUDA, and this machine shows none: '
                         'on CPUs start with torchrun and --launcher pytorch')
    if not {'RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'} <= set(os.environ):
        raise InputError('--launcher pytorch is for torchrun, which sets RANK and WORLD_SIZE: '
                         'use tools/dist_train.sh, tools/dist_test.sh or torchrun')
    adjust.processes_on_cpu(cfg)
    torch.distributed.init_process_group('gloo')


def _leave_processes() -> None:
    """Leave the process group while Python is alive: threads of gloo that outlive it abort.

    After success alone: others may be amidst an exchange when this process fails.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class _StartHook(Hook):
    """Knows whether the work itself has begun."""
    started = False

    def before_train(self, runner) -> None:
        self.started = True

    before_test = before_train


def _start(work: Callable, runner: Runner, cfg: Config):
    """Train or test; what fails before the first step is the input's fault.

    MMEngine builds optimizer and schedulers, and loads weights, inside this call.
    """
    start = _StartHook()
    runner.register_hook(start)
    try:
        with named_when_dead(runner):
            return work()
    except RunError:
        raise
    except Exception as error:
        if not start.started:
            raise InputError(explain(error, cfg)) from error
        raise


def _build(cfg: Config, stages: list[str]) -> Runner:
    """The Runner, with models and data sets built now and checked."""
    try:
        check_model(cfg.get('model'))
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except Exception as error:
        raise InputError(explain(error, cfg)) from error
    let_workers_outlast(runner)
    model, datasets = bare_model(runner.model), {}
    for stage in stages:
        loader = f'{stage}_dataloader'
        if cfg.get(loader) is None:
            continue
        try:
            # Reading the property builds the loop with its data set and evaluator.
            loop = getattr(runner, f'{stage}_loop')
        except InputError:
            raise
        except Exception as error:
            raise InputError(build_problem(error, cfg, stage)) from error
        dataset, evaluator = loop.dataloader.dataset, getattr(loop, 'evaluator', None)
        check_dataset(dataset, model, loader, _max_skips(cfg) if stage == 'train' else 0)
        if evaluator is not None:
            check_evaluator(cfg, stage, evaluator, dataset, model)
        datasets[loader] = dataset
    check_same_classes(datasets, model)
    if 'train_dataloader' in datasets:
        check_mixing(model, runner.hooks, datasets['train_dataloader'])
    return runner


def _max_skips(cfg: Config) -> int:
    """How many pictures of the training may be left out."""
    return ((cfg.get('default_hooks') or {}).get('samples') or {}).get('max_skips') or 0


def _notice_batch_size(cfg: Config) -> None:
    """Say when the learning rate was chosen for another batch size."""
    scaling = cfg.get('auto_scale_lr') or {}
    base, batch = scaling.get('base_batch_size'), cfg.train_dataloader.get('batch_size')
    if not base or not batch or scaling.get('enable') or cfg.get('resume'):
        return
    factors = [get_world_size(), batch, adjust.accumulated(cfg)]
    total = math.prod(factors)
    if total != base:
        product = ' x '.join(map(str, factors))
        print_log(f'The learning rate is for batches of {base} images and this run has {total} '
                  f'({product}): --auto-scale-lr scales it by {total / base:g}',
                  'current', level=logging.WARNING)
