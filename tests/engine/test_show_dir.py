"""Pictures of predictions go where --show-dir says, by each project's own hook."""
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from downstream import need
from mmengine.registry import HOOKS, VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

from mmeffnet.engine import adjust, cli, run
from mmeffnet.engine.config import load_config

NAMES = ('$5_$10', 'US$ / CA$')  # of classes, which are no formulas


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
        path, 'x.pth', flag, *(['shown'] if flag == '--show-dir' else [])]))
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


@pytest.mark.parametrize(('project', 'config', 'draw'), [
    ('mmpretrain', 'efficientnet-b0_digits.py', 'visualize_cls'),
    ('mmdet', 'retinanet_effb0_digits.py', 'add_datasample')])
def test_names_of_classes_are_drawn_as_they_are(project, config, draw, configs, tmp_path,
                                                monkeypatch):
    need(project, 'skimage')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(matplotlib.rcParams, 'text.parse_math', True)  # as it was, afterwards
    args = cli.parse(cli.test_parser(), [
        str(configs / 'quickstart' / config), 'x.pth', '--show-dir', 'shown'])
    cfg = run._prepare(args)
    adjust.for_testing(cfg, args)
    init_default_scope(project)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=tmp_path.name))
    visualizer.dataset_meta = dict(classes=NAMES)
    texts = []
    if project == 'mmdet':
        from mmdet.structures import DetDataSample
        sample = DetDataSample(pred_instances=InstanceData(
            bboxes=torch.tensor([[2., 2., 20., 20.]] * 2), labels=torch.tensor([0, 1]),
            scores=torch.tensor([.9, .9])))
    else:
        from mmpretrain.structures import DataSample
        sample = DataSample().set_gt_label(0).set_pred_label(1)
    write = visualizer.ax_save.text
    monkeypatch.setattr(visualizer.ax_save, 'text', lambda *args, **given: texts.append(
        write(*args, **given)))
    getattr(visualizer, draw)(name='0', image=np.zeros((64, 64, 3), np.uint8),
                              data_sample=sample, out_file='0.png')
    assert Path('0.png').is_file()
    assert not any(text.get_parse_math() for text in texts)
    assert all(any(name in text.get_text() for text in texts) for name in NAMES)
