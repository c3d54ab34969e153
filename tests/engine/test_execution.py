"""--compile, --channels-last, --accumulate: together with averages, resuming, recomputed blocks."""
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, run_tool
from mmengine.optim import OptimWrapper, OptimWrapperDict
from peers import TINY as EVERY_BLOCK
from torch import nn

from mmeffnet.engine import adjust, cli, execution
from mmeffnet.errors import InputError
from mmeffnet.models import EfficientNet
from mmeffnet.optim import RampedAverage, RMSpropTF

SMALL = dict(stem=8, head=32, activation='Swish', stages=dict(
    first=dict(block='mbconv', kernel=3, stride=2, expand=4, channels=8, repeats=1, se_ratio=0.25)))


def network(**kwargs):
    torch.manual_seed(0)
    return nn.ModuleDict(dict(backbone=EfficientNet(SMALL, **kwargs))).double()


def outputs(model, image):
    model.zero_grad()
    out, = model.backbone(image)
    out.square().sum().backward()
    return [out, *(p.grad for p in model.parameters())]


def strided(tensor):
    """Whether a tensor lies in memory with its channels last, and not also as usual."""
    return (tensor.is_contiguous(memory_format=torch.channels_last)
            and not tensor.is_contiguous())


def test_channels_last_holds_through_the_network_and_changes_no_result():
    image = torch.rand(2, 3, 17, 21, dtype=torch.float64)
    plain, model = network(), network()
    execution.channels_last(model)
    seen = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, out: seen.extend([*inputs, out]))
    found = outputs(model, image)
    for one, other in zip(found, outputs(plain, image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert model.state_dict().keys() == plain.state_dict().keys()
    wide = [tensor for tensor in seen if tensor.dim() == 4 and tensor.shape[-1] > 1]
    assert len(wide) > 20
    assert all(map(strided, wide))


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ('g++', 'clang++'))), reason='torch.compile needs a C++ compiler')


@pytest.mark.parametrize(('given', 'named'), [(None, r'(g|clang)\+\+'), ('typo', 'typo')])
def test_a_missing_compiler_is_named_before_the_run(given, named, monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    if given:
        monkeypatch.setenv('CXX', given)
    monkeypatch.setattr(execution, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    model = network()
    with pytest.raises(InputError, match=f"'{named}' is not found. Install one, or set CXX"):
        execution.compile_network(model)
    assert model.backbone._compiled_call_impl is None
    monkeypatch.setattr(execution, 'get_device', lambda: 'cuda')
    execution.compile_network(model)
    assert model.backbone._compiled_call_impl is not None


@pytest.mark.slow
@needs_compiler
def test_compiling_changes_neither_keys_nor_results():
    image = torch.rand(2, 3, 17, 21, dtype=torch.float64)
    plain, model = network(), network()
    execution.compile_network(model)
    for one, other in zip(outputs(model, image), outputs(plain, image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize('training', [True, False], ids=['training', 'inference'])
def test_one_graph_serves_all_batches_from_the_second_size_on(training):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    model = EfficientNet(EVERY_BLOCK).double().train(training)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.set_grad_enabled(training):
        for batch in (2, 3, 5, 8):
            compiled(torch.rand(batch, 3, 64, 48, dtype=torch.float64))
    assert len(graphs) == 2  # of the first size alone, and of every other


@pytest.mark.parametrize('change', [execution.compile_network, execution.channels_last])
def test_a_model_without_our_network_is_refused(change):
    with pytest.raises(InputError, match='works on a model with one EfficientNet of mmeffnet, and '
                       'Linear has none or several'):
        change(nn.Linear(1, 1))


@pytest.fixture
def flags(tiny_config):
    """The config that ``tools/train.py`` makes of flags and lines."""
    def apply(*args, lines=()):
        from mmeffnet.engine.config import load_config
        parsed = cli.parse(cli.train_parser(), [tiny_config(*lines), *args])
        cfg = load_config(parsed.config)
        adjust.for_training(cfg, parsed)
        return cfg
    return apply


def test_accumulating_averages_once_a_step_and_scales_the_rate_by_all_images(flags):
    cfg = flags('--accumulate', '4', '--auto-scale-lr')
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.default_hooks.step_averages == dict(type='mmeffnet.StepAveragesHook')
    assert cfg.auto_scale_lr == dict(base_batch_size=64 / 4, enable=True)


def test_a_config_that_accumulates_itself_is_scaled_and_averaged_too(flags):
    cfg = flags(lines=['optim_wrapper = dict(accumulative_counts=2)',
                       'auto_scale_lr = dict(enable=True)'])
    assert cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.default_hooks.step_averages == dict(type='mmeffnet.StepAveragesHook')
    assert 'step_averages' not in flags().default_hooks


@pytest.mark.parametrize('given', ['0', '-1', '1.5', 'two'])
def test_only_whole_numbers_of_batches_are_accumulated(given, capsys):
    with pytest.raises(SystemExit):
        cli.parse(cli.train_parser(), ['config.py', '--accumulate', given])
    assert f'{given!r} must be a whole number, at least 1' in capsys.readouterr().err


def test_averages_of_accumulated_steps_equal_those_of_whole_ones():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    whole, split = RampedAverage(model, decay=0.8), RampedAverage(model, decay=0.8, interval=3)
    for _ in range(20):
        for _ in range(2):
            split.update_parameters(model)
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param))
        whole.update_parameters(model)
        split.update_parameters(model)
        for one, other in zip(whole.parameters(), split.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize('average', ["ema_type='mmeffnet.RampedAverage', decay=0.9",
                                     'momentum=0.3'])
def test_half_batches_make_the_same_steps_as_whole_ones(average, tiny_config, tmp_path,
                                                        monkeypatch):
    from mmeffnet.engine import run
    monkeypatch.chdir(tmp_path)
    # BatchNorm and dropout look at batches, and a schedule at their number.
    lines = ['model = dict(backbone=dict(norm_eval=True, drop_path_rate=0.), head=dict('
             'dropout=0.))', "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', "
             'lr=0.1))',
             f"custom_hooks = [dict(type='EMAHook', {average})]",
             'train_cfg = dict(max_epochs=2)', 'randomness = dict(seed=1)', 'param_scheduler = []']
    for name, *more in (('whole', ), ('split', '--accumulate', '2', '--cfg-options',
                                      'train_dataloader.batch_size=16')):
        run.train(cli.parse(cli.train_parser(), [
            tiny_config(*lines), '--no-validate', '--work-dir', name, *more]))
    whole, split = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)
                    for name in ('whole', 'split'))
    start = torch.load(tmp_path / 'whole' / 'epoch_1.pth', weights_only=True)
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in whole[part].items():
            if value.is_floating_point():
                torch.testing.assert_close(split[part][key], value, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(start['state_dict']['head.fc.weight'],
                              whole['state_dict']['head.fc.weight'], rtol=1e-2)


def test_averages_of_accumulated_steps_resume_within_one(tiny_config, tmp_path, monkeypatch):
    from mmeffnet.engine import run
    monkeypatch.chdir(tmp_path)
    config = tiny_config(
        'train_cfg = dict(max_epochs=1)', 'randomness = dict(seed=1)', 'default_hooks = dict('
        'checkpoint=dict(by_epoch=False, interval=4, max_keep_ckpts=9, save_best=None))')
    for folder, *more in (('whole', ), ('part', '--resume', 'whole/iter_4.pth')):
        run.train(cli.parse(cli.train_parser(), [
            config, '--no-validate', '--accumulate', '3', '--work-dir', folder, *more]))
    whole, part = (torch.load(tmp_path / folder / 'iter_8.pth', weights_only=True)
                   for folder in ('whole', 'part'))
    assert whole['ema_state_dict']['steps'] == 3
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in whole[key].items():
            assert torch.equal(value, part[key][name]), name


def test_the_steps_of_our_optimizer_are_compiled_and_no_others():
    ours, theirs = (kind([torch.nn.Parameter(torch.ones(3))], lr=0.1)
                    for kind in (RMSpropTF, torch.optim.SGD))
    hook = execution.CompiledStepHook()
    for wrapper in (OptimWrapper(theirs), OptimWrapperDict(a=OptimWrapper(theirs),
                                                           b=OptimWrapper(ours))):
        assert not ours._compiled
        hook.before_train(SimpleNamespace(optim_wrapper=wrapper))
    assert ours._compiled


@pytest.mark.slow
@needs_compiler
def test_all_flags_together_train_and_resume(tmp_path):
    (tmp_path / 'tiny_base.py').write_text(TINY)
    (tmp_path / 'tiny.py').write_text(
        "_base_ = './tiny_base.py'\nmodel = dict(backbone=dict(with_cp=True, arch=dict(stages="
        'dict(second=dict(repeats=1)))))\n'
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='mmeffnet.RMSpropTF', lr=0.001))\n"
        'train_cfg = dict(max_epochs=2)\nrandomness = dict(seed=1)\n')
    args = ['tiny.py', '--amp', '--compile', '--channels-last', '--accumulate', '2']
    for folder, *more in (('whole', ), ('part', '--resume', 'whole/epoch_1.pth')):
        result = run_tool('train.py', *args, '--work-dir', folder, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
    whole, part = (torch.load(tmp_path / folder / 'epoch_2.pth', weights_only=True)
                   for folder in ('whole', 'part'))
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in whole[key].items():
            assert torch.equal(value, part[key][name]), name
    scalars, = (tmp_path / 'whole').glob('*/vis_data/scalars.json')
    losses = [line['loss'] for line in map(json.loads, scalars.read_text().splitlines())
              if 'loss' in line]
    assert losses[-1] < losses[0]
