"""tools/scale.py: what it finds, prints and writes, and what it refuses."""
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

import mmeffnet
from mmeffnet.analysis import scale_cli
from mmeffnet.analysis.complexity import complexity
from mmeffnet.analysis.quantities import SECONDS, UNITS, amount, number
from mmeffnet.analysis.resizing import resized
from mmeffnet.analysis.scaled_config import BASES, base_config, dropout
from mmeffnet.analysis.targets import Found, Ratio, nearest
from mmeffnet.engine import cli, run
from mmeffnet.variants import VARIANTS


@pytest.fixture
def scale(capsys):
    """Run the tool in this process: what it printed."""
    def call(*argv):
        scale_cli.main([str(a) for a in argv])
        return capsys.readouterr().out
    return call


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run the tool in this process: the one line that it ends with."""
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)

    def call(*argv):
        with pytest.raises(SystemExit) as exit_:
            scale_cli.main([str(a) for a in argv])
        assert exit_.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]
    return call


# The search.

def cost(scaling):
    return complexity('b0', scaling=scaling).multiply_adds


@pytest.mark.parametrize('target', [1e8, 3.86e8, 1e9, 2.5e10])
def test_no_step_of_phi_comes_nearer_to_the_target(target):
    found = nearest(cost, target, Ratio())
    every = [cost(Ratio().at(index / 100)) for index in range(-1300, 1000)]
    assert abs(found[0].cost - target) == min(abs(value - target) for value in every)
    assert min(f.cost for f in found) <= target < max(f.cost for f in found)


def test_large_networks_are_not_measured_for_a_small_target():
    asked = []
    nearest(lambda scaling: asked.append(scaling.depth) or cost(scaling), 4e8, Ratio(), grain=0.1)
    assert max(asked) <= 1.2 ** 0.5 + 1e-9  # half a phi past the base is the first step
    assert len(asked) < 8


def test_of_equal_costs_those_next_to_the_target_are_given():
    """Counts stand still where a step of phi changes no layer."""
    def steps(scaling):
        return math.floor(scaling.depth * 4)
    found = nearest(steps, 4.5, Ratio(), grain=0.01)
    assert [one.cost for one in found] == [4, 5]
    assert found[1].phi - found[0].phi == pytest.approx(0.01)


def test_a_time_that_was_disturbed_hides_no_nearer_one():
    """Measured five times too long where phi is 0.2, between 0 and 0.5."""
    def seconds(scaling):
        return scaling.depth * (5 if scaling == Ratio().at(0.2) else 1)
    found = nearest(seconds, 0.999 * Ratio().at(0.5).depth, Ratio(), grain=0.1)
    assert [one.phi for one in found] == [0.5, 0.1, 0.2]


def test_beyond_the_ends_the_end_is_found():
    ratio = Ratio(resolution=64)
    assert nearest(cost, 1, ratio) == [Found(-4, ratio.at(-4), cost(ratio.at(-4)))]
    assert ratio.at(-4).resolution == 36
    assert nearest(cost, 1e30, ratio)[0].phi == 20


def test_factors_keep_their_ratio_and_sides_their_step():
    scaling = Ratio(step=16).at(2.5)
    assert math.log(scaling.width, 1.1) == pytest.approx(2.5, abs=0.001)
    assert math.log(scaling.depth, 1.2) == pytest.approx(2.5, abs=0.001)
    assert scaling.resolution == 320  # 224 x 1.15**2.5 is 317.7


@pytest.mark.parametrize(('text', 'units', 'value'), [
    ('30us', SECONDS, 30e-6), ('1.5 ms', SECONDS, 1.5e-3), ('2S', SECONDS, 2), ('3', UNITS, 3),
    ('1.5k', UNITS, 1500), ('8M', UNITS, 8e6), ('1e-3G', UNITS, 1e6), ('2T', UNITS, 2e12)])
def test_units_of_targets(text, units, value):
    assert number('--x', text, units) == pytest.approx(value)
    if units is UNITS:
        assert number('--x', amount(value), units) == value


# What is printed.

def test_a_target_is_met_and_the_costs_are_printed(scale):
    out = scale('--target-macs', '1.0G')
    assert '-0.64% of --target-macs 1G' in out
    assert '0.994 G multiply-adds (1.987 GFLOPs, two for each), 9.11 M parameters' in out
    assert 'total                    9,109,994    993,561,872' in out
    assert 'training with 256 images on a device' in out


def test_a_published_network_is_shown_as_it_is(scale):
    out = scale('--arch', 'b3')
    assert out.startswith('b3, 300 px')
    assert str(VARIANTS['b3'].arch) in out
    assert str(complexity('b3')) in out


def test_memory_is_that_of_the_table_of_scaling_out(scale):
    # docs/scaling-out.md: 106 MB of state, 88 and 44 MB for an image, 14 with recomputation.
    out = scale('--batch', 100)
    found = re.search(r'images on a device: ([\d.]+) GB in float32, ([\d.]+) in bfloat16, '
                      r'([\d.]+) with recomputed blocks too \(0.11 of it', out)
    assert [float(value) for value in found.groups()] == [
        pytest.approx(0.106 + 100 * mb / 1000, abs=0.06) for mb in (88, 44, 14)]


def test_the_batch_is_halved_until_it_fits(scale):
    assert 'training with 64 images' in scale('--memory', '4G')  # 256 would take 11.3
    # Two would take 88 MB beside the 106 of the state.
    assert 'training with 1 images' in scale('--batch', 2, '--memory', '160M')


def test_a_latency_is_measured_here(scale, monkeypatch):
    from mmeffnet.analysis import latency
    real = latency.latency(mmeffnet.ModelScaling(width=0.3, depth=0.2).apply(
        VARIANTS['b0'].arch), 64, torch.device('cpu'))
    assert 0 < real < 10
    # The search is the same for every clock; a real one would take turns with other work.
    monkeypatch.setattr(latency, 'latency', lambda arch, resolution, *_: complexity(
        arch, resolution).multiply_adds * 1e-10)
    out = scale('--target-latency', '100ms')
    assert out.startswith('38.6ms: width 1, depth 1, 224 px')  # what was measured, in its order
    assert float(re.search(r'([+-][\d.]+)% of --target-latency 100ms', out)[1]) == pytest.approx(
        0, abs=5)


# What is written.

def test_dropout_lies_between_those_of_the_family():
    for name in ('b0', 'b2', 'b4', 'b7', 'l2'):
        assert dropout(VARIANTS['b0'], complexity(name).multiply_adds) == VARIANTS[name].dropout
    between = dropout(VARIANTS['b0'], 2_800_000_000)  # half way from b3 to b4, as factors go
    assert between == pytest.approx(0.35, abs=0.01)
    assert dropout(VARIANTS['b0'], 10**6) == 0.2


def test_a_written_config_has_sizes_batch_and_rate(scale, tmp_path):
    scale('--phi', 1.5, '--out', tmp_path / 'c.py', '--batch', 128, '--devices', 4)
    cfg = Config.fromfile(tmp_path / 'c.py')
    assert cfg.train_dataloader.dataset.pipeline[0].scale == 276  # 224 x 1.15**1.5 is 276.2
    assert cfg.test_dataloader.dataset.pipeline[1].crop_size == 276
    assert 'AutoAugment' in [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.016 * 512 / 256)
    assert cfg.model.head.in_channels == 1480
    assert cfg.model.head.dropout == 0.3  # of B2 and of B3
    assert cfg.model.backbone.scaling.width == 1.1537  # 1.1**1.5
    assert cfg.model.backbone.drop_path_rate == 0.2  # of all published ones


@pytest.mark.parametrize('arch', ['lite0', 'es', 'b1'])
def test_a_config_of_each_family_builds_what_was_shown(arch, scale, tmp_path):
    wanted = [] if arch == 'b1' else ['--width', 0.5]
    out = scale('--arch', arch, *wanted, '--out', tmp_path / 'c.py')
    _, model = built(tmp_path / 'c.py')
    assert f'{parameters(model):,}' in out.replace(' ', '\n')


def test_the_command_that_trains_a_written_config_can_be_pasted(scale, tmp_path):
    out = scale(*SMALL, '--out', tmp_path / 'my net.py')
    assert f"Train with: tools/train.py '{tmp_path}/my net.py'\n" in out


def test_a_written_config_trains(scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale('--width', 0.3, '--depth', 0.4, '--resolution', 112, '--out', tmp_path / 'small.py',
          '--base', 'quickstart/efficientnet-b0_digits.py', '--classes', 10, '--batch', 16,
          '--devices', 1)
    pipeline = Config.fromfile('small.py').train_dataloader.dataset.pipeline
    assert (pipeline[0].scale, pipeline[1].crop_size) == ((112, 112), 112)
    run.train(cli.parse(cli.train_parser(), [
        'small.py', '--work-dir', 'out', '--cfg-options', 'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=32', 'val_dataloader.dataset.indices=32']))
    assert list((tmp_path / 'out').glob('epoch_1.pth'))


SMALL = ['--width', 0.5, '--depth', 0.1]  # memory is counted by running the network


def built(path):
    """The config of a file, and its classifier without memory."""
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    return cfg, model


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(('argv', 'classes'), [
    (['--classes', 20], 20),
    (['--base', 'finetune/efficientnet-b0_custom.py'], 2),
    (['--base', 'quickstart/efficientnet-b0_digits.py'], 10),
    (['--base', 'quickstart/efficientnet-b0_digits.py', '--classes', 12], 12)])
def test_a_written_config_has_the_classes_that_were_counted(argv, classes, scale, tmp_path):
    out = scale(*SMALL, *argv, '--out', tmp_path / 'c.py')
    cfg, model = built(tmp_path / 'c.py')
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == classes
    count = complexity('b0', scaling=dict(width=0.5, depth=0.1),
                       num_classes=classes).parameters
    assert parameters(model) == count
    assert re.search(rf'^total +{count:,} ', out, re.M)
    assert ('classes: name data sets of' in out) == ('--classes' in argv)


def test_the_recipes_that_are_inherited_have_the_classes_of_the_help():
    for base in BASES.values():
        assert base_config(base).model.head.num_classes == scale_cli.CLASSES


def test_classes_of_a_preprocessor_inside_the_model_follow(scale, tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        "model = dict(data_preprocessor=dict(num_classes=1000))\n")
    scale(*SMALL, '--base', tmp_path / 'base.py', '--classes', 7, '--out', tmp_path / 'c.py')
    assert Config.fromfile(tmp_path / 'c.py').model.data_preprocessor.num_classes == 7


def test_pipelines_that_a_hook_exchanges_are_scaled_too(scale, tmp_path):
    base = 'efficientnet/efficientnet-b0_8xb256-progressive_in1k.py'
    scale(*SMALL, '--resolution', 296, '--base', base, '--out', tmp_path / 'c.py')
    cfg, before = Config.fromfile(tmp_path / 'c.py'), base_config(base)
    sizes = [cfg.train_dataloader.dataset.pipeline[0].scale, *(
        stage.train_pipeline[0].scale for stage in cfg.custom_hooks[1].schedule)]
    assert sizes == [169, 211, 254, 296]  # 128, 160, 192 and 224 times 296 / 224
    assert cfg.test_dataloader.dataset.pipeline[1].crop_size == 296
    assert cfg.custom_hooks[0] == before.custom_hooks[0]
    for stage, old in zip(cfg.custom_hooks[1].schedule, before.custom_hooks[1].schedule):
        assert stage.train_pipeline[1:] == old.train_pipeline[1:]
        assert (stage.action_epoch, stage.batch_augments) == (old.action_epoch, old.batch_augments)


@pytest.mark.slow
def test_weights_for_another_network_are_not_inherited(scale, tmp_path):
    base = 'finetune/efficientnet-lite0_custom.py'
    out = scale('--arch', 'lite0', *SMALL, '--base', base, '--out', tmp_path / 'c.py')
    assert ('\nnot inherited: model.backbone.init_cfg, model.backbone.frozen_stages; the weights '
            f'that {base} is for') in out
    cfg, model = built(tmp_path / 'c.py')
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [part['type'] for part in model.backbone.init_cfg] == [
        'mmeffnet.FanOutNormal', 'Constant']
    # The network of the base itself keeps them, at any size of its images.
    out = scale('--arch', 'lite0', '--resolution', 192, '--base', base, '--out', tmp_path / 'c.py')
    cfg = Config.fromfile(tmp_path / 'c.py')
    assert 'not inherited' not in out
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    assert cfg.model.backbone.frozen_stages == 2


@pytest.mark.slow
def test_all_that_goes_with_weights_stays_with_the_network_of_the_base(scale, tmp_path):
    base, out = tmp_path / 'base.py', tmp_path / 'c.py'
    pretrained = "init_cfg=[dict(type='Pretrained', checkpoint='w.pth')]"
    base.write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        f"model = dict(pretrained='w.pth', {pretrained}, head=dict({pretrained}),\n"
        f"             backbone=dict({pretrained}, frozen_stages=2, norm_eval=True))\n")
    said = scale(*SMALL, '--base', base, '--out', out)
    assert ('not inherited: model.pretrained, model.init_cfg, model.head.init_cfg, '
            'model.backbone.init_cfg, model.backbone.frozen_stages, model.backbone.norm_eval; '
            ) in said
    cfg, model = built(out)
    assert cfg.model.pretrained is cfg.model.init_cfg is model.init_cfg is None
    assert model.head.init_cfg['type'] == 'Uniform'
    assert (model.backbone.frozen_stages, model.backbone.norm_eval) == (0, False)
    assert all(module.training for module in model.train().modules())
    # The network of the base itself keeps all of it.
    assert 'not inherited' not in scale('--resolution', 64, '--base', base, '--out', out)
    kept, before = Config.fromfile(out).model, base_config(str(base)).model
    assert (kept.pretrained, kept.init_cfg, kept.head.init_cfg) == (
        'w.pth', before.init_cfg, before.init_cfg)
    assert (kept.backbone.init_cfg, kept.backbone.norm_eval) == (before.init_cfg, True)


def test_initial_weights_without_a_checkpoint_are_inherited(scale, tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        "model = dict(init_cfg=dict(type='Normal', layer='Linear', std=0.5))\n")
    out = scale(*SMALL, '--base', tmp_path / 'base.py', '--out', tmp_path / 'c.py')
    assert 'not inherited' not in out
    assert Config.fromfile(tmp_path / 'c.py').model.init_cfg.std == 0.5


@pytest.mark.slow
def test_a_base_is_named_alike_however_its_path_is_given(scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').mkdir()
    Path('base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n")
    for name, base in (('relative', 'base.py'), ('absolute', tmp_path / 'base.py')):
        scale(*SMALL, '--base', base, '--out', f'configs/{name}.py')
    relative, absolute = (Path(f'configs/{name}.py').read_text()
                          for name in ('relative', 'absolute'))
    assert "_base_ = '../base.py'" in relative
    assert absolute == relative


def test_a_path_that_leaves_a_folder_is_no_name_of_ours(scale, tmp_path, monkeypatch):
    # From the shipped configs this path leads to a file too.
    name = 'configs/efficientnet/efficientnet-b0_8xb256-paper_in1k.py'
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.write_text(f"_base_ = 'mmeffnet::{name.removeprefix('configs/')}'\n"
                   'auto_scale_lr = dict(base_batch_size=1024)\n')
    (tmp_path / 'below').mkdir()
    monkeypatch.chdir(tmp_path / 'below')
    scale(*SMALL, '--base', f'../{name}', '--out', 'c.py')
    assert f"_base_ = '../{name}'" in Path('c.py').read_text()
    # Its rate is for 1024 images a step; c.py takes 2048, as ours does.
    ours = base_config(name.removeprefix('configs/'))
    assert Config.fromfile('c.py').optim_wrapper.optimizer.lr == pytest.approx(
        ours.optim_wrapper.optimizer.lr * 2048 / 1024)


@pytest.mark.parametrize('argv', [['--arch', 'b0'], SMALL])
@pytest.mark.slow
def test_the_scaling_of_a_base_is_not_added_to_that_asked_for(argv, scale, tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        "model = dict(backbone=dict(scaling=dict(phi=1, divisor=16)))\nload_from = 'w.pth'\n")
    out = scale(*argv, '--base', tmp_path / 'base.py', '--out', tmp_path / 'c.py')
    cfg, model = built(tmp_path / 'c.py')
    assert f'{parameters(model):,}' in out.replace(' ', '\n')
    assert cfg.load_from is None
    assert 'not inherited: load_from;' in out


def test_a_prefix_hides_no_transform_and_others_keep_their_sizes(tmp_path):
    cfg = Config(dict(
        train_dataloader=dict(dataset=dict(pipeline=[
            dict(type='mmcv.RandomApply', transforms=[dict(type='mmpretrain.CenterCrop',
                                                           crop_size=(128, 64))]),
            dict(type='Resize', scale_factor=2), dict(type='RandomErasing', scale=8)])),
        val_dataloader=dict(dataset=dict(pipeline=[
            dict(type='mmpretrain.ResizeEdge', scale=256),
            dict(type='CenterCrop', crop_size=224)])),
        tta_pipeline=[dict(type='TestTimeAug', transforms=[[dict(type='Resize', scale=224)]])]))
    train, val, beside = resized(cfg, 'base.py', 112).values()
    assert train == [
        dict(type='mmcv.RandomApply', transforms=[dict(type='mmpretrain.CenterCrop',
                                                       crop_size=(64, 32))]),
        dict(type='Resize', scale_factor=2), dict(type='RandomErasing', scale=8)]
    assert [val[0]['scale'], val[1]['crop_size']] == [128, 112]
    assert beside[0]['transforms'][0][0]['scale'] == 112


@pytest.mark.parametrize(('kind', 'key'), [
    ('RandomResizedCrop', 'scale'), ('mmpretrain.RandomResizedCrop', 'scale'),
    ('mmeffnet.LoadRandomCrop', 'scale'), ('mmeffnet.LoadEncodedRandomCrop', 'scale'),
    ('EfficientNetRandomCrop', 'scale'), ('RandomCrop', 'crop_size'), ('Resize', 'scale')])
def test_every_transform_that_sets_the_size_of_training_is_scaled(kind, key):
    cfg = Config({f'{part}_dataloader': dict(dataset=dict(pipeline=[step])) for part, step in (
        ('train', {'type': kind, key: 224}), ('val', dict(type='CenterCrop', crop_size=224)))})
    train, _ = resized(cfg, 'base.py', 112).values()
    assert train == [{'type': kind, key: 112}]


DIGITS = 'quickstart/efficientnet-b0_digits.py'
INHERITS = f"_base_ = 'mmeffnet::{DIGITS}'\n"


def pipelines(path):
    cfg = Config.fromfile(path)
    return [cfg[f'{part}_dataloader'].dataset.pipeline for part in ('val', 'test')]


def test_a_base_keeps_its_own_test(scale, tmp_path):
    base, out = tmp_path / 'base.py', tmp_path / 'c.py'
    base.write_text(INHERITS)
    scale(*SMALL, '--resolution', 32, '--base', base, '--out', out)
    val, test = pipelines(out)
    assert val == test
    base.write_text(INHERITS + "test_dataloader = dict(dataset=dict(pipeline=[\n"
                    "    dict(type='LoadImageFromFile'), dict(type='Resize', scale=80)]))\n")
    scale(*SMALL, '--resolution', 32, '--base', base, '--out', out)
    assert pipelines(out) == [val, [dict(type='LoadImageFromFile'),
                                    dict(type='Resize', scale=40)]]  # half, as of 64
    base.write_text(INHERITS + 'test_dataloader = test_evaluator = test_cfg = None\n')
    scale(*SMALL, '--base', base, '--out', out)
    assert Config.fromfile(out).test_dataloader is None
    # Pictures that have their size, and data sets in another.
    for dataset in ("pipeline=[dict(type='LoadImageFromFile')]",
                    "_delete_=True, type='ConcatDataset', datasets=[dict(type='mmeffnet.Digits')]"):
        base.write_text(f'{INHERITS}test_dataloader = dict(dataset=dict({dataset}))\n')
        said = scale(*SMALL, '--resolution', 32, '--base', base, '--out', out)
        assert f'the test set of {base} is inherited as it is' in said
        assert Config.fromfile(out).test_dataloader == Config.fromfile(base).test_dataloader


def test_passes_that_a_base_accumulates_are_counted(scale, tmp_path):
    # Its rate is for the 128 images of a step: four passes of 32.
    (tmp_path / 'base.py').write_text(INHERITS + 'optim_wrapper = dict(accumulative_counts=4)\n'
                                      'auto_scale_lr = dict(base_batch_size=128)\n')
    scale(*SMALL, '--base', tmp_path / 'base.py', '--devices', 2, '--out', tmp_path / 'c.py')
    cfg = Config.fromfile(tmp_path / 'c.py')
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        2 * base_config(DIGITS).optim_wrapper.optimizer.lr)


# What is refused.

@pytest.mark.parametrize('name', ['base.py', 'parent.py', 'link.py'])
def test_what_the_base_is_read_from_is_not_replaced(name, refused, tmp_path):
    (tmp_path / 'parent.py').write_text(INHERITS)
    (tmp_path / 'base.py').write_text("_base_ = './parent.py'\n")
    (tmp_path / 'link.py').symlink_to('parent.py')
    before = (tmp_path / name).read_text()
    assert (f"--out '{tmp_path / name}' is --base '{tmp_path / 'base.py'}' or a file that it "
            'inherits: name another') in refused(
        *SMALL, '--base', tmp_path / 'base.py', '--out', tmp_path / name)
    assert (tmp_path / name).read_text() == before


def test_a_config_that_could_not_be_read_replaces_none(refused, tmp_path):
    # MMEngine's newer configs, which import, cannot be inherited by name.
    (tmp_path / 'base.py').write_text('from mmengine.dataset import DefaultSampler\n'
                                      f'{base_config(DIGITS).pretty_text}')
    (tmp_path / 'c.py').write_text('before = 1\n')
    assert 'what would inherit it cannot be read, and is not written (config ' in refused(
        *SMALL, '--base', tmp_path / 'base.py', '--out', tmp_path / 'c.py')
    assert (tmp_path / 'c.py').read_text() == 'before = 1\n'
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_where_nothing_can_be_written_is_refused(refused, tmp_path):
    (tmp_path / 'folder.py').mkdir()
    (tmp_path / 'file').touch()
    assert "folder.py' is a folder: name a file" in refused('--out', tmp_path / 'folder.py')
    assert 'file: nothing can be written there (' in refused('--out', tmp_path / 'file/c.py')


def test_a_base_that_does_not_train_is_refused(refused):
    base = '_base_/default_runtime.py'
    assert (f"--base '{base}' has no train_dataloader.batch_size: give --batch" in
            refused(*SMALL, '--base', base))

@pytest.mark.parametrize(('argv', 'message'), [
    (['--arch', 'b99'], "error: arch='b99' is not a variant"),
    (['--arch', 'b3', '--phi', 1], "error: arch='b3' is scaled already"),
    (['--phi', 1, '--width', 2], 'error: --phi and --width, --depth or --resolution: each says'),
    (['--phi', -1], 'error: phi=-1.0 must be a finite number of at least 0'),
    (['--phi', 1e9], 'error: phi=1000000000.0 is too large: width'),
    (['--phi', 30, '--alpha', 2], 'error: depth=1073741824.0 must be at most 100'),
    (['--width', 0], 'error: width=0.0 must be a number above 0'),
    (['--target-macs', '1X'], "error: --target-macs '1X' must be a number above 0, with one of"),
    (['--target-params', '0'], "error: --target-params '0' must be a number above 0"),
    (['--target-latency', '3 hours'], 'with one of the units s, ms, us'),
    (['--target-params', '0.2M'], 'the nearest possible: 521.9K (phi -13: width 0.2897'),
    (['--target-macs', '386M', '--tolerance', 1e-6, '--resolution-step', 32],
     'the nearest possible: 385.8M (phi 0: width 1, depth 1, 224 px) and '),
    (['--tolerance', 2], 'error: --tolerance 2.0 must be above 0 and below 1'),
    (['--beta', 0.5, '--phi', 1], 'error: --beta 0.5 must be at least 1'),
    (['--alpha', 1, '--beta', 1, '--gamma', 1, '--target-macs', '1G'], 'nothing would grow'),
    (['--resolution-step', 0, '--phi', 1], 'error: --resolution-step 0 must be at least 1'),
    (['--batch', 0], 'error: --batch 0 must be at least 1'),
    (['--memory', '1M'], 'error: --memory 1M: one image takes 1'),
    (['--out', 'x.txt'], "error: --out 'x.txt' must end in .py"),
    (['--base', 'efficientnet/nope.py'], "error: config 'efficientnet/nope.py' does not exist")])
def test_wrong_arguments_are_said_in_one_line(argv, message, refused):
    assert message in refused(*argv)


def test_a_base_that_is_no_efficientnet_is_refused(refused, tmp_path):
    (tmp_path / 'r.py').write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'\n")
    assert "its backbone is 'ResNet'" in refused(
        '--base', tmp_path / 'r.py', '--out', tmp_path / 'c.py')
    assert not (tmp_path / 'c.py').exists()


@pytest.mark.parametrize(('head', 'named'), [
    ('None', 'None'), ("dict(_delete_=True, type='LinearClsHead', num_classes=10,"
                       " in_channels=1280)", "'LinearClsHead'")])
def test_a_base_without_the_head_of_ours_is_refused(head, named, refused, tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        f'model = dict(head={head})\n')
    assert f"its head is {named}, and only 'mmeffnet.EfficientNetHead' is scaled here" in refused(
        *SMALL, '--base', tmp_path / 'base.py', '--out', tmp_path / 'c.py')


@pytest.mark.parametrize('part', ['train', 'val'])
def test_a_base_whose_sizes_are_not_known_is_refused(part, refused, tmp_path):
    (tmp_path / 'base.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b0_8xb256-paper_in1k.py'\n"
        f"{part}_dataloader = dict(dataset=dict(pipeline=[dict(type='Albu', size=224)]))\n")
    assert f'no transform of {part}_dataloader.dataset.pipeline sets a size; known are' in refused(
        *SMALL, '--base', tmp_path / 'base.py', '--out', tmp_path / 'c.py')


def test_the_shipped_tool_starts(tmp_path):
    result = run_tool('scale.py', '--phi', 'x', cwd=tmp_path)
    assert result.returncode == 2
    assert '--phi: invalid float value' in result.stderr
