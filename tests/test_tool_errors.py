"""Wrong input ends in one line on stderr and exit code 2, before anything is trained."""
import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmpretrain
import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmeffnet.engine import adjust, cli, run
from mmeffnet.engine.config import check_keys, explain, load_config
from mmeffnet.errors import InputError
from mmeffnet.export import evaluation


def train(fails, *argv):
    return fails(cli.train_parser, *argv)


def test_a_process_ends_with_one_line_and_code_2(tmp_path):
    result = run_tool('train.py', 'missing.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 1
    assert "error: config 'missing.py' does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_comes_before_the_config_loads_no_models(tmp_path):
    """mmpretrain takes seconds, and with mmcv-lite it warns of operators that nobody asked for."""
    code = ('import sys\nfrom mmeffnet.engine import cli, run\n'
            'print(sorted({"mmpretrain", "mmeffnet.models"} & set(sys.modules)))')
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True,
                            capture_output=True, text=True, timeout=300)
    assert result.stdout == '[]\n'


def test_a_wrong_config_path_names_the_nearest(fails, tiny_config):
    path = tiny_config()
    assert f'did you mean {path!r}' in train(fails, path.replace('tiny.py', 'tinny.py'))
    assert 'efficientnet-b3_8xb32_in1k.py' in train(fails, 'efficientnet-b3_8xb32_ink.py')


def test_a_config_with_a_syntax_error_is_named(fails, tiny_config):
    path = tiny_config('model = dict(')
    assert f'config {path!r} cannot be read' in train(fails, path)


def test_a_head_that_does_not_fit_the_backbone_names_the_right_width(fails, tiny_config):
    message = train(fails, tiny_config('model = dict(head=dict(in_channels=1280))'))
    assert 'model.head.in_channels=1280' in message
    assert 'write in_channels=32' in message


def test_an_unknown_variant_names_the_nearest(fails, tiny_config):
    path = tiny_config("model = dict(backbone=dict(_delete_=True, type='mmeffnet.EfficientNet', "
                       "arch='b33'))")
    message = train(fails, path)
    assert "arch='b33' is not a variant; did you mean 'b3'?" in message


@pytest.mark.parametrize(('line', 'expected'), [
    ('optim_wraper = dict()', "config key 'optim_wraper' means nothing; did you mean "
                              "'optim_wrapper'?"),
    ('trian_cfg = dict(max_epochs=2)', "did you mean 'train_cfg'?"),
    ('env_cfg = dict(cudnn_benchmrk=True)', "'env_cfg.cudnn_benchmrk' means nothing; did you mean "
                                            "'cudnn_benchmark'?"),
    ('default_hooks = dict(chekpoint=dict(interval=2))', "'default_hooks.chekpoint' has no type; "
                                                         "did you mean 'checkpoint'?"),
    ('model = dict(backbone=dict(drop_path_rat=0.1))', 'model.backbone.drop_path_rat'),
    ('optim_wrapper = dict(optimizer=dict(learning_rate=0.1))',
     'optim_wrapper.optimizer.learning_rate'),
    ('train_dataloader = dict(batchsize=3)', "unexpected keyword argument 'batchsize'"),
    ('train_cfg = dict(max_epoch=2)', "unexpected keyword argument 'max_epoch'"),
])
def test_a_misspelt_key_is_named(line, expected, fails, tiny_config):
    assert expected in train(fails, tiny_config(line))


@pytest.mark.parametrize('options', [{}, {'custom_hooks.0.type': 'EMAHook'}])
def test_hooks_that_are_no_list_are_named(options, tmp_path):
    """MMEngine makes a dict of what changes an entry of a list that is not there."""
    path = tmp_path / 'hooks.py'
    path.write_text('' if options else "custom_hooks = dict(type='EMAHook')")
    with pytest.raises(InputError, match="^config key 'custom_hooks' is a dict and must be a list"):
        load_config(str(path), options)
    path.write_text("custom_hooks = [dict(type='EMAHook')]")
    assert load_config(str(path), options).custom_hooks == [dict(type='EMAHook')]


@pytest.mark.parametrize(('kind', 'hint'), [
    ('Adamm', "; did you mean 'Adam'?"), ('NoneOfThese', '')])
def test_an_optimizer_that_is_not_installed_is_named(kind, hint):
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type=kind, lr=0.1))))
    with pytest.raises(TypeError) as error:
        build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)
    assert explain(error.value, cfg) == (
        f'optim_wrapper.optimizer.type={kind!r} is no optimizer that is installed (some come in '
        f'packages of their own, as Lion in lion-pytorch){hint}')
    several = Config(dict(optim_wrapper=dict(good=dict(optimizer=dict(type='SGD')),
                                             bad=cfg.optim_wrapper)))
    assert explain(error.value, several).startswith(
        f'optim_wrapper.bad.optimizer.type={kind!r} is no optimizer')
    assert explain(error.value, Config()) == 'TypeError: None is not a callable object'


@pytest.mark.parametrize(('paramwise', 'named'), [
    (dict(norm_decay_mult=0., bias_decay_mult=0.), 'norm_decay_mult and bias_decay_mult'),
    (dict(custom_keys=dict(head=dict(lr_mult=2), stem=dict(decay_mult=0.))),
     'custom_keys.stem.decay_mult')])
def test_a_weight_decay_that_factors_are_of_is_asked_for(paramwise, named):
    """As where a config that has both is inherited, and its optimizer is another."""
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=paramwise)
    with pytest.raises(ValueError, match='base_wd') as error:
        build_optim_wrapper(torch.nn.Linear(1, 1), Config(dict(w=wrapper)).w)
    told = (f'optimizer.weight_decay is missing, and optim_wrapper{{}}.paramwise_cfg has {named}: '
            'set it, to 0 for none')
    assert explain(error.value, Config(dict(optim_wrapper=wrapper))) == (
        f'optim_wrapper.{told.format("")}')
    several = dict(good=dict(optimizer=dict(weight_decay=0), paramwise_cfg=paramwise), bad=wrapper)
    assert explain(error.value, Config(dict(optim_wrapper=several))) == (
        f'optim_wrapper.bad.{told.format(".bad")}')
    assert explain(error.value, Config()) == 'base_wd should not be None'


def test_shipped_configs_of_other_projects_have_no_misspelt_keys():
    root = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    if not root.is_dir():
        pytest.skip('this distribution of mmpretrain ships no configs')
    paths = sorted(root.glob('[!_]*/*.py'))[::40]
    assert len(paths) > 10
    for path in paths:
        check_keys(Config.fromfile(path))


def test_a_missing_data_folder_tells_the_layout(fails, configs, monkeypatch):
    monkeypatch.setenv('IMAGENET', '/nowhere/imagenet')
    message = train(fails, configs / 'efficientnet/efficientnet-b0_8xb32_in1k.py')
    assert "train_dataloader.dataset.data_root: '/nowhere/imagenet' does not exist" in message
    assert 'train/<class>/*.JPEG and val/<class>/*.JPEG' in message


FOLDERS = """
_dataset = dict(_delete_=True, type='mmpretrain.CustomDataset', data_root='data',
                pipeline=[dict(type='mmpretrain.LoadImageFromFile'),
                          dict(type='mmpretrain.Resize', scale=(16, 16)),
                          dict(type='mmpretrain.PackInputs')])
train_dataloader = dict(dataset=_dataset)
val_dataloader = dict(dataset=_dataset)
"""


@pytest.fixture
def photos(tmp_path):
    """Five class folders with one picture each, under the folder 'data'."""
    import cv2
    import numpy as np
    for name in 'abcde':
        (tmp_path / 'data' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'data' / name / '1.png'), np.full((20, 20, 3), 99, np.uint8))
    return tmp_path / 'data'


def test_folders_that_do_not_match_the_class_count_stop_the_run(fails, tiny_config, photos):
    message = train(fails, tiny_config(FOLDERS))
    assert 'the data set has 5 classes and the model has 10' in message
    assert 'model.head.num_classes=5' in message


def test_class_folders_of_other_names_stop_the_run(monkeypatch):
    def loop(*folders):
        return SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(
            folder_to_idx={name: label for label, name in enumerate(folders)}, img_prefix='')))
    runner = SimpleNamespace(
        model=SimpleNamespace(head=SimpleNamespace(num_classes=2)), hooks=[],
        build_dataloader=run.Runner.build_dataloader,
        train_loop=loop('cat', 'dog'), val_loop=loop('Dog', 'cat'))
    monkeypatch.setattr(run.Runner, 'from_cfg', lambda _: runner)
    cfg = Config(dict(train_dataloader={}, val_dataloader={}))
    with pytest.raises(InputError, match="^val_dataloader.dataset: label 0 is 'Dog', and it is "
                       "'cat' in train_dataloader.dataset"):
        run._build(cfg, ['train', 'val'])
    assert run._build(cfg, ['train']) == run._build(cfg, ['val']) == runner


@pytest.mark.parametrize('weights', ['a.pth', 'a.onnx'])
def test_names_that_weights_were_trained_with_are_compared_and_the_test_goes_on(
        weights, tiny_config, monkeypatch):
    monkeypatch.chdir(Path(tiny_config()).parent)
    runner = SimpleNamespace(model=SimpleNamespace(), test=lambda: {},
                             test_dataloader=SimpleNamespace(dataset='digits'))
    compared, gone_on = [], []
    for name, double in dict(
            _build=lambda *_: runner, load_whole=lambda *_: ['of torch'],
            take_over=lambda *_: ['of onnx'], warn_of_names=lambda *args: compared.append(args),
            _start=lambda *_: gone_on.append(len(compared))).items():
        monkeypatch.setattr(run, name, double)
    monkeypatch.setattr(run.pretrained, 'for_testing', lambda _: None)
    run.test(cli.parse(cli.test_parser(), [tiny_config(), weights]))
    names = [f'of {dict(pth="torch", onnx="onnx")[weights[2:]]}']
    assert compared == [('digits', 'test_dataloader', runner.model, names, weights)]
    assert gone_on == [1]


@pytest.mark.parametrize(('names', 'known'), [(['cat', 'dog'], ['cat', 'dog']),
                                              (['class 0', 'class 1'], [])])
def test_an_exported_file_says_the_names_it_was_given(names, known, monkeypatch):
    monkeypatch.setattr(evaluation, 'open_exported', lambda _: (None, dict(
        classes=names, normalised_inside=False, mean=[0] * 3, std=[1] * 3)))
    model = torch.nn.ModuleDict(dict(head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(4, 2)))))
    model.data_preprocessor = torch.nn.Identity()
    assert evaluation.take_over(model, 'a.onnx', {}) == known


def test_a_hidden_folder_that_would_become_a_class_is_named(fails, tiny_config, photos):
    (photos / '.ipynb_checkpoints').mkdir()
    message = train(fails, tiny_config(FOLDERS, 'model = dict(head=dict(num_classes=5))'))
    assert ".ipynb_checkpoints' would be counted as a class" in message


def test_a_label_out_of_range_is_named_with_its_file(fails, tiny_config, photos):
    (photos / 'list.txt').write_text('a/1.png 0\nb/1.png 5\n')
    message = train(fails, tiny_config(
        FOLDERS, "_dataset.update(ann_file='list.txt')",
        'model = dict(head=dict(num_classes=5))'))
    assert 'label 5 of' in message
    assert 'b/1.png' in message
    assert 'labels run from 0 to 4' in message


def test_a_torn_list_of_labels_is_named(fails, tiny_config, photos):
    (photos / 'list.txt').write_text('a/1.png 0\nb/1.p')
    message = train(fails, tiny_config(FOLDERS, "_dataset.update(ann_file='list.txt')"))
    assert "train_dataloader (ann_file 'data/list.txt'): " in message


@pytest.mark.parametrize(('argv', 'expected'), [
    (['--out-item', 'metrics'], '--out-item metrics needs --out'),
    (['--out', 'x.json'], "--out 'x.json': --out-item pred is written as .pkl, .pickle"),
    (['--out', 'x.txt', '--out-item', 'metrics'], 'metrics is written as .json, .yaml'),
    (['--out', 'no/x.pkl'], "the folder 'no' does not exist"),
    (['--show-dir', 'tiny.py/shown'], "--show-dir 'tiny.py/shown': 'tiny.py' is a file"),
])
def test_an_output_that_cannot_be_written_is_refused_first(argv, expected, fails, tiny_config):
    assert expected in fails(cli.test_parser, tiny_config(), 'weights.pth', *argv)


def test_no_sample_at_all_is_no_interval(capsys):
    with pytest.raises(SystemExit):
        cli.parse(cli.test_parser(), ['a.py', 'b.pth', '--interval', '0'])
    assert "--interval: '0' must be a whole number, at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(('change', 'field'), [
    ('val_interval=0', 'val_interval: an interval of 0'),
    ('dynamic_intervals=[(2, 1), (3, -1)]', 'dynamic_intervals.1: an interval of -1')])
def test_a_validation_after_no_epoch_is_refused(change, field, fails, tiny_config):
    path = tiny_config(f'train_cfg = dict({change})')
    assert f'train_cfg.{field} must be at least 1; --no-validate' in train(fails, path)
    # With that it is of no concern.
    adjust.for_training(load_config(path), cli.parse(cli.train_parser(), [path, '--no-validate']))


def test_amp_refuses_a_wrapper_it_does_not_know(fails, tiny_config):
    path = tiny_config("optim_wrapper = dict(type='ApexOptimWrapper')")
    assert "optim_wrapper.type='ApexOptimWrapper': --amp works with" in train(fails, path, '--amp')


def test_an_override_without_a_value_is_explained(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.parse(cli.train_parser(), ['config.py', '--cfg-options', 'train_cfg.max_epochs'])
    assert exit_.value.code == 2
    assert '--cfg-options takes KEY=VALUE pairs' in capsys.readouterr().err


def test_an_address_that_cannot_be_reached_is_one_line(fails, tiny_config, tmp_path):
    message = fails(cli.test_parser, tiny_config(), 'http://127.0.0.1:9/weights.pth')
    assert 'URLError' in message
    assert 'Connection refused' in message


def test_slurm_without_cuda_says_what_to_use(fails, tiny_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    message = train(fails, tiny_config(), '--launcher', 'slurm')
    assert 'needs CUDA' in message
    assert 'torchrun' in message


@pytest.mark.parametrize('command', ['train', 'test'])
def test_ctrl_c_ends_in_one_line(command, tiny_config, tmp_path, monkeypatch, capsys):
    """Of a training it says how to go on."""
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, '_build', interrupted)
    monkeypatch.setattr(run.pretrained, 'for_testing', lambda cfg: None)
    argv = dict(train=[tiny_config()], test=[tiny_config(), 'x.pth'])[command]
    args = cli.parse(getattr(cli, f'{command}_parser')(), argv)
    with pytest.raises(SystemExit, match='130'):
        getattr(run, command)(args)
    assert capsys.readouterr().err.splitlines()[-1] == 'interrupted' + (
        ': --resume goes on from the newest checkpoint in the work dir'
        if command == 'train' else '')
    monkeypatch.setenv('MMEFFNET_TRACEBACK', '1')
    with pytest.raises(KeyboardInterrupt):
        getattr(run, command)(args)


def test_a_traceback_can_be_asked_for(tiny_config, monkeypatch):
    monkeypatch.setenv('MMEFFNET_TRACEBACK', '1')
    args = cli.parse(cli.train_parser(), [tiny_config('optim_wraper = 1')])
    with pytest.raises(InputError, match='optim_wraper'):
        run.train(args)


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'predict.py', 'explain.py', 'scale.py'])
def test_what_a_tool_takes_is_said_before_pytorch_is_loaded(tool, tmp_path):
    """Which takes seconds, as does a wrong flag otherwise."""
    said = run_tool(tool, '--help', cwd=tmp_path, launcher=('-X', 'importtime'))
    assert said.stdout.startswith('usage: ')
    loaded = {line.rpartition('|')[2].strip() for line in said.stderr.splitlines()}
    assert 'mmeffnet' in loaded
    assert 'torch' not in loaded


@pytest.mark.parametrize(('kind', 'least', 'wrong'), [
    (cli.positive, 1, ('0', '-3', '1.5', 'x', '')), (cli.several, 2, ('1', '0', '2.5', 'x'))])
def test_numbers_of_things_are_whole_and_enough(kind, least, wrong):
    assert [kind(str(least)), kind('15')] == [least, 15]
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=(
                f"^'{text}' must be a whole number, at least {least}$")):
            kind(text)
