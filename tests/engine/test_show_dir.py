"""Pictures of predictions go where --show-dir says, by each project's own hook."""
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from downstream import need
from mmengine.registry import HOOKS, VISUALIZERS, init_default_scope
from PIL import Image

from mmeffnet.engine import adjust, cli
from mmeffnet.engine.config import load_config


@pytest.mark.parametrize(('project', 'config', 'sample'), [
    ('mmpretrain', 'efficientnet-b0_digits.py', 'DataSample'),
    ('mmdet', 'retinanet_effb0_digits.py', 'DetDataSample'),
    ('mmseg', 'fpn_effb0_digits.py', 'SegDataSample')])
@pytest.mark.parametrize('flag', ['--show-dir', '--show'])
def test_the_hook_of_each_project_draws(project, config, sample, flag, configs, tmp_path,
                                        monkeypatch):
    need(project, 'skimage')
    monkeypatch.chdir(tmp_path)
    path, shown = str(configs / 'quickstart' / config), tmp_path / 'shown'
    cfg = load_config(path)
    adjust.for_testing(cfg, cli.parse(cli.test_parser(), [
        path, 'x.pth', flag, *([str(shown)] if flag == '--show-dir' else [])]))
    init_default_scope(project)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=tmp_path.name))
    visualizer.dataset_meta = dict(classes=('digit', ), palette=[(0, 0, 0)])
    hook = HOOKS.build(cfg.default_hooks.visualization)
    hook._visualizer = visualizer
    waited = []
    monkeypatch.setattr(visualizer, 'show', lambda *_, **given: waited.append(given['wait_time']))
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save('0.png')
    hook.after_test_iter(
        SimpleNamespace(work_dir='work', timestamp='now'), 0,
        dict(inputs=torch.zeros(1, 3, 30, 30)), [getattr(import_module(
            f'{project}.structures'), sample)(metainfo=dict(img_path='0.png'))])
    written = [*shown.rglob('*.png')]
    assert (waited, len(written)) == (([], 1) if flag == '--show-dir' else ([2], 0))
