"""tools/convert.py: a clean file of ours out of any other, and back again."""
import hashlib
import resource
from functools import partial

import pytest
import torch
from mmengine.config import Config
from peers import TINY

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.engine.convert import _check, _target, main, parser
from mmeffnet.errors import InputError
from mmeffnet.inference.network import build_network
from mmeffnet.variants import Norm
from mmeffnet.weights import load_weights
from mmeffnet.weights.translate import to_layout


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a training checkpoint of timm's: raw and averaged weights, optimizer."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    ours = {f'backbone.{k}': v for k, v in EfficientNet('lite0').state_dict().items()}
    ours |= {'head.fc.weight': torch.randn(5, 1280), 'head.fc.bias': torch.randn(5)}
    theirs = to_layout(ours, VARIANTS['lite0'].arch, 'timm')
    torch.save(dict(state_dict={k: v + 1 for k, v in theirs.items()}, state_dict_ema=theirs,
                    optimizer=dict(state={0: torch.ones(3)}), epoch=7), 'theirs.pth')
    return tmp_path, theirs


def convert(*argv):
    """Run the tool in this process and give the only file that it adds."""
    from pathlib import Path
    before = set(Path().rglob('*'))
    main([str(a) for a in argv])
    (added, ) = set(Path().rglob('*')) - before
    return added


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in argv])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_the_file_holds_the_averaged_tensors_and_nothing_that_trains(files):
    _, theirs = files
    path = convert('theirs.pth', 'clean.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'clean-{digest[:8]}.pth'
    whole = torch.load(path, weights_only=True)
    assert set(whole) == {'state_dict', 'meta'}
    assert all(isinstance(value, torch.Tensor) for value in whole['state_dict'].values())
    assert (whole['meta']['variant'], whole['meta']['layout']) == ('lite0', 'timm')
    assert torch.equal(whole['state_dict']['backbone.layers.0.conv.weight'],
                       theirs['conv_stem.weight'])


def test_there_and_back_is_bit_for_bit(files):
    _, theirs = files
    back = convert(convert('theirs.pth', 'clean.safetensors'), 'back.pth', '--to', 'timm')
    state = torch.load(back, weights_only=True)
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.items())


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('name', ['tf_efficientnet_lite0-0aa007d2.pth', 'theirs.h5'])
def test_what_the_weights_need_travels_with_them(suffix, name, files, monkeypatch):
    """A converted file has no telling name any more."""
    from mmeffnet.variants import Norm
    from mmeffnet.weights import sources
    stated = dict(norm=Norm(mean=(0., ) * 3, std=(255., ) * 3), padding='symmetric', eps=1e-5)
    monkeypatch.setattr(sources, 'verify', lambda path, entry: None)  # random weights
    monkeypatch.setattr(sources, 'read_state', lambda path, average: (
        load_state('theirs.pth'), {} if name.endswith('pth') else stated))
    (files[0] / name).write_bytes(b'x')
    path = convert(name, f'clean.{suffix}')
    monkeypatch.undo()
    monkeypatch.chdir(files[0])
    weights = load_weights(path)
    if name.endswith('pth'):
        assert weights.entry.name == 'efficientnet-lite0_timm-tf_in1k'
        assert (weights.norm, weights.padding) == (weights.entry.norm, 'same')
    else:
        assert weights.entry is None
        assert (weights.norm, weights.padding, weights.eps) == tuple(stated.values())


def load_state(path):
    return torch.load(path, weights_only=True)['state_dict_ema']


def test_a_folder_is_filled_under_the_sources_name(files):
    folder, _ = files
    (folder / 'out').mkdir()
    assert convert('theirs.pth', 'out').name.startswith('theirs-')


@pytest.mark.parametrize(('source', 'name'), [
    ('timm://tf_efficientnet_b0.aa_in1k', 'tf_efficientnet_b0.aa_in1k.pth'),
    ('runs/model.ckpt-350000', 'model.ckpt-350000.pth'), ('a/best.v2.pth', 'best.v2.pth'),
    ('https://example.org/b0.safetensors?download=true', 'b0.pth'),
    ('runs/model_best.pth.tar', 'model_best.pth'), ('B0.PTH', 'B0.pth'),
    ('a/?.pth', '?.pth'), ('lite://lite0', 'lite0.pth')])
def test_a_name_in_a_folder_keeps_what_tells_sets_apart(source, name, tmp_path):
    assert _target(str(tmp_path), source) == tmp_path / name


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_file_holds_its_tensors_alone_however_they_lay_in_memory(suffix, files):
    """Parts of a larger one, as of a flat parameter, in channels last."""
    _, theirs = files
    flat, state = torch.cat([torch.ones(10 ** 6), theirs['classifier.bias']]), dict(theirs)
    state['classifier.bias'] = flat[-5:]
    state['conv_stem.weight'] = theirs['conv_stem.weight'].to(memory_format=torch.channels_last)
    state['bn1.weight'], state['bn1.bias'] = torch.randn(2, 32)
    torch.save(state, 'parts.pth')
    path = convert('parts.pth', f'clean.{suffix}', '--to', 'timm')
    bare = convert('theirs.pth', f'bare.{suffix}', '--to', 'timm')
    assert abs(path.stat().st_size - bare.stat().st_size) < 1e4
    written = load_weights(path).state
    assert all(torch.equal(written[key], value)
               for key, value in load_weights('parts.pth').state.items())


def test_the_other_library_takes_what_is_written(files):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    state = torch.load(convert('theirs.pth', 'x.pth', '--to', 'timm'), weights_only=True)
    network = timm.create_model('tf_efficientnet_lite0', num_classes=5)
    network.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_the_check_measures_the_outputs(files, capsys):
    pytest.importorskip('timm', reason='timm is a judge, and not installed')
    convert('theirs.pth', 'clean.pth', '--check')
    lines = capsys.readouterr().out.splitlines()
    assert '296 tensors are equal bit for bit' in lines
    gaps = {line.split(':')[0]: float(line.split(' (')[0].split()[-1])
            for line in lines if 'largest relative difference' in line}
    assert set(gaps) == {'features', 'logits'}
    assert max(gaps.values()) < 1e-10


def test_a_file_with_other_tensors_does_not_pass_the_check(files):
    _, theirs = files
    saved(theirs, 'other.pth', **{'classifier.bias': theirs['classifier.bias'] + 1})
    path = convert('other.pth', 'other_clean.pth')
    args = parser().parse_args(['theirs.pth', 'clean.pth', '--check'])
    with pytest.raises(InputError, match="pth' differs from 'theirs.pth': head.fc.bias$"):
        _check(args, path)


def test_a_check_that_is_off_would_show(files):
    from dataclasses import replace

    from mmeffnet.engine.judges import differences
    pytest.importorskip('timm', reason='timm is a judge, and not installed')
    source = load_weights('theirs.pth')
    wrong = dict(source.state)
    wrong['backbone.layers.3.0.depthwise_conv.bn.bias'] = \
        wrong['backbone.layers.3.0.depthwise_conv.bn.bias'] + 0.1
    lines = list(differences(source, replace(source, state=wrong)))
    assert all(float(line.split(' (')[0].split()[-1]) > 1e-3 for line in lines)
    wrong['backbone.layers.3.0.depthwise_conv.bn.bias'] *= float('nan')
    lines = list(differences(source, replace(source, state=wrong)))
    assert all('difference from' in line and ' nan ' in line for line in lines)


def test_a_network_that_its_library_does_not_build_is_said_to_have_no_judge(files):
    """EdgeTPU has efficientnet_pytorch's names when it comes from TensorFlow."""
    from mmeffnet.engine.judges import differences
    from mmeffnet.weights.translate import translate
    pytest.importorskip('efficientnet_pytorch', reason='is a judge, and not installed')
    state = {f'backbone.{k}': v for k, v in EfficientNet('es').state_dict().items()}
    weights = translate(to_layout(state, VARIANTS['es'].arch, 'lukemelas'), 'file')
    line, = differences(weights, weights)
    assert line.startswith("no comparison of outputs: no library with the layout 'lukemelas' "
                           "builds 'es'")


def saved(theirs, name, without=(), **more):
    """A file of timm's weights with some keys less and some more."""
    torch.save({**{k: v for k, v in theirs.items() if k not in without}, **more}, name)
    return name


@pytest.mark.parametrize(('without', 'more', 'match'), [
    (['blocks.3.0.bn2.weight', 'bn1.bias'], {},
     'lacks 2 of its tensors: backbone.layers.0.bn.bias'),
    (['classifier.bias'], {}, 'lacks 1 of its tensors: head.fc.bias'),
    (['classifier.weight'], {}, 'lacks 1 of its tensors: head.fc.weight'),
    ([], {'blocks.3.0.conv_pw.bias': torch.ones(240)}, 'has 1 tensors that it has no place for: '),
    ([], {'bn1.bias': torch.ones(3)}, 'has 1 tensors of other shapes: backbone.layers.0.bn.bias '
     'is 3 and has to be 32: only')])
@pytest.mark.parametrize('to', ['mmeffnet', 'timm'])
def test_a_part_of_a_network_is_no_clean_file(to, without, more, match, files, capsys):
    folder, theirs = files
    saved(theirs, 'part.pth', without, **more)
    error = fails(capsys, 'part.pth', 'clean.pth', '--to', to)
    assert f"'part.pth' is of lite0 and {match}" in error
    assert 'only a whole network' in error
    assert not [*folder.glob('clean*')]


def test_a_deployed_network_is_refused_as_such(files, capsys):
    network = EfficientNet('lite0')
    network.switch_to_deploy()
    torch.save(network.state_dict(), 'deployed.pth')
    assert "'deployed.pth' is of lite0, deployed: BatchNorm" in fails(
        capsys, 'deployed.pth', 'clean.pth')


# Networks of no published variant

def custom(name='custom.pth', without=(), stated=None, more=None, arch=TINY, **options):
    """A checkpoint as MMEngine writes it; stated: the backbone in the config that it keeps."""
    state = {f'backbone.{key}': value for key, value in
             EfficientNet(arch=arch, **options).state_dict().items()}
    state |= {'head.fc.weight': torch.ones(3, 32), 'head.fc.bias': torch.ones(3), **(more or {})}
    text = Config(dict(model=dict(backbone=stated), limit=float('inf'))).pretty_text
    torch.save(dict(state_dict={key: value for key, value in state.items()
                                if not key.startswith(tuple(without))},
                    meta=dict(cfg=text) if stated else {}), name)
    return name


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


STATED = dict(type='mmeffnet.EfficientNet', arch=TINY)


@pytest.mark.parametrize('stated', [None, STATED, dict(type='MyEfficientNet', arch=TINY)])
@pytest.mark.parametrize('options', [
    {}, dict(in_channels=1), dict(norm_cfg=dict(type='GN', num_groups=4)),
    dict(act_cfg=dict(type='PReLU', num_parameters=1)),
    dict(norm_cfg=dict(type='BN', affine=False)), dict(conv_cfg=dict(type='Conv2dAdaptivePadding')),
    dict(arch=dict(TINY, stages=[dict(stage, se_ratio=ratio, expand=expand) for stage, ratio, expand
                                 in zip(TINY['stages'].values(), (1, .3, .1), (1, 2.5, 3))]))
], ids=str)
def test_a_whole_custom_network_is_converted(stated, options, here):
    if stated is STATED and 'arch' in options:
        stated = dict(stated, arch=options['arch'])
    custom(stated=stated, **options)
    written = load_weights(convert('custom.pth', 'clean.pth')).state
    state = load_weights('custom.pth').state
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)


@pytest.mark.parametrize('stated', [None, STATED])
@pytest.mark.parametrize(('without', 'match'), [
    ('backbone.layers.6.', 'lacks backbone.layers.6.conv.weight'),
    ('backbone.layers.3.', 'lacks backbone.layers.3.0.depthwise_conv.conv.weight'),
    ('backbone.layers.1.0.', 'lacks backbone.layers.1.0.'),
    ('backbone.layers.3.0.expand_conv.', 'lacks 5 of its tensors: backbone.layers.3.0.expand_conv'),
    ('backbone.layers.1.0.linear_conv.bn.bias', 'lacks 1 of its tensors: backbone.layers.1.0.li'),
    ('backbone.layers.0.bn.', 'lacks 4 of its tensors: backbone.layers.0.bn.bias'),
    ('head.fc.weight', 'lacks 1 of its tensors: head.fc.weight')])
def test_a_part_of_a_custom_network_is_refused(without, match, stated, here, capsys):
    custom(without=[without], stated=stated)
    error = fails(capsys, 'custom.pth', 'clean.pth')
    assert "'custom.pth' is of a custom network and lacks " in error
    assert stated or match in error
    assert 'only a whole network' in error
    assert [*here.iterdir()] == [here / 'custom.pth']


@pytest.mark.parametrize(('options', 'lost'), [
    (dict(norm_cfg=dict(type='GN', num_groups=2)), 'layers.0.gn.weight'),
    (dict(act_cfg=dict(type='PReLU')), 'layers.0.activate.weight')], ids=str)
def test_other_layers_of_a_variant_are_kept_by_our_keys_alone(options, lost, here, capsys):
    options |= dict(arch='b0', more={'head.fc.weight': torch.ones(3, 1280)})
    custom(**options)
    error = fails(capsys, '--to', 'timm', 'custom.pth', 'clean.pth')
    assert 'tensors of normalisation or activation: backbone.layers.0.' in error
    assert 'no network of timm has these: only --to mmeffnet is possible' in error
    for to in ('mmeffnet', 'mmpretrain'):  # the latter has our keys
        written = load_weights(convert('custom.pth', f'{to}.pth', '--to', to, '--padding', 'same'))
        state = load_weights('custom.pth').state
        assert written.state.keys() == state.keys()
        assert all(torch.equal(written.state[key], state[key]) for key in state)
    custom(name='part.pth', without=[f'backbone.{lost}'], **options)
    assert f'lacks 1 of its tensors: backbone.{lost}' in fails(capsys, 'part.pth', 'clean.pth')


@pytest.mark.parametrize('scaling', [
    None, dict(type='mmeffnet.ModelScaling', width=1.2, depth=2.0)])
def test_the_config_of_a_checkpoint_tells_what_is_missing(scaling, here, capsys):
    stated = STATED if scaling is None else dict(type='EfficientNet', arch='b0', scaling=scaling)
    options = dict(arch=stated['arch'], scaling=scaling)
    network = EfficientNet(**options)
    last, blocks = len(network.layers) - 2, len(network.layers[-2])
    head = {'head.fc.weight': torch.ones(3, network.out_channels)}
    custom(without=[f'backbone.layers.{last}.{blocks - 1}.'], stated=stated, more=head, **options)
    assert f'of its tensors: backbone.layers.{last}.{blocks - 1}.' in fails(
        capsys, 'custom.pth', 'clean.pth')
    convert(custom(stated=stated, more=head, **options), 'clean.pth')


def test_a_deployed_custom_network_is_refused_as_such(here, capsys):
    network = EfficientNet(arch=TINY)
    network.switch_to_deploy()
    for without in ('nothing', 'layers.0.conv.bias'):
        torch.save({k: v for k, v in network.state_dict().items() if k != without}, 'deployed.pth')
        assert "'deployed.pth' is of a custom network, deployed: BatchNorm" in fails(
            capsys, 'deployed.pth', 'clean.pth')


@pytest.mark.parametrize('text', ['model = ', 'model = build()', 'model = dict(backbone=[])', 'x=1',
                                  'model = dict(backbone=dict(type="EfficientNet", arch="b99"))',
                                  'model = dict(backbone=dict(type=print("run")))',
                                  'model = dict(backbone=dict(type="EfficientNet", arch="b0", '
                                  'scaling=dict(type="builtins.print", sep="run")))'])
def test_a_config_that_tells_nothing_is_read_and_not_run(text, here, capsys):
    content = torch.load(custom(), weights_only=True)
    torch.save(dict(content, meta=dict(cfg=text)), 'custom.pth')
    convert('custom.pth', 'clean.pth')
    assert 'run' not in capsys.readouterr().out


@pytest.mark.parametrize('kernel', [(32, 1, 4, 4), (32, 9)])
def test_shapes_of_no_network_are_one_line(kernel, here, capsys):
    custom(more={'backbone.layers.1.0.depthwise_conv.conv.weight': torch.ones(kernel)})
    assert 'of none that is built here' in fails(capsys, 'custom.pth', 'clean.pth')


@pytest.mark.parametrize('gone', ['classifier', 'num_batches_tracked'])
def test_neither_classifier_nor_counters_are_needed(gone, files):
    _, theirs = files
    saved(theirs, 'less.pth', [key for key in theirs if gone in key])
    assert load_weights(convert('less.pth', 'clean.pth')).classes == (
        None if gone == 'classifier' else 5)


def test_any_number_of_input_channels_is_a_whole_network(files):
    saved(files[1], 'grey.pth', **{'conv_stem.weight': torch.ones(32, 1, 3, 3)})
    written = load_weights(convert('grey.pth', 'clean.pth')).state
    assert torch.equal(written['backbone.layers.0.conv.weight'], torch.ones(32, 1, 3, 3))


@pytest.mark.parametrize(('source', 'to', 'match'), [
    ('lukemelas', 'torchvision', 'has padding same and BatchNorm eps 0.001, and the network of '
     'torchvision padding symmetric and BatchNorm eps 1e-05'),
    ('torchvision', 'mmpretrain', 'has padding symmetric and BatchNorm eps 1e-05, and the network '
     'of mmpretrain padding same and BatchNorm eps 0.001')])
def test_a_library_that_computes_something_else_is_refused(source, to, match, files, capsys):
    """The file would load there, and its outputs would be off."""
    ours = {f'backbone.{k}': v for k, v in EfficientNet('b0').state_dict().items()}
    torch.save(to_layout(ours, VARIANTS['b0'].arch, source), 'b0.pth')
    error = fails(capsys, 'b0.pth', 'clean.pth', '--to', to)
    assert f"'b0.pth' {match}" in error
    assert 'choose --to mmeffnet, which keeps both' in error
    # What our own file states of itself is known too.
    assert match in fails(capsys, convert('b0.pth', 'clean.pth'), 'again.pth', '--to', to)
    convert('b0.pth', 'timm.pth', '--to', 'timm')
    own = convert('b0.pth', 'same.pth', '--to', {'lukemelas': 'mmpretrain'}.get(source, source))
    # mmpretrain's keys tell neither: the file says both.
    assert (load_weights(own).padding, load_weights(own).eps) == (
        ('same', 1e-3) if source == 'lukemelas' else ('symmetric', 1e-5))


@pytest.fixture
def b0(here):
    """B0 under timm's keys, which do not tell the padding."""
    torch.manual_seed(0)
    state = {f'backbone.{k}': v for k, v in EfficientNet('b0').state_dict().items()}
    state |= {'head.fc.weight': torch.randn(3, 1280), 'head.fc.bias': torch.randn(3)}
    torch.save(to_layout(state, VARIANTS['b0'].arch, 'timm'), 'b0.pth')


@pytest.mark.parametrize(('to', 'right', 'wrong', 'network'), [
    ('torchvision', 'symmetric', 'same', "torchvision's efficientnet_b0"),
    ('mmpretrain', 'same', 'symmetric', "mmpretrain's EfficientNet 'b0'")])
def test_a_padding_that_nothing_tells_has_to_be_given(to, right, wrong, network, b0, capsys):
    pytest.importorskip('timm', reason='timm is a judge, and not installed')
    arguments = ['b0.pth', 'clean.pth', '--to', to]
    assert f"'b0.pth' does not tell what padding it was trained with, and the network of {to} " \
        f'has padding {right} and BatchNorm eps ' in fails(capsys, *arguments)
    assert f"'b0.pth' has padding {wrong} and BatchNorm eps" in fails(
        capsys, *arguments, '--padding', wrong)
    convert(*arguments, '--padding', right, '--check')
    lines = [line for line in capsys.readouterr().out.splitlines() if f' of {network}: ' in line]
    assert [line.split()[0] for line in lines] == ['features', 'logits']
    assert max(float(line.split(' (')[0].split()[-1]) for line in lines) < 1e-10


def test_a_network_that_pads_otherwise_shows_in_the_check(b0):
    from mmeffnet.engine.judges import differences
    pytest.importorskip('timm', reason='timm is a judge, and not installed')
    source = load_weights('b0.pth')  # which timm's network with SAME padding judges
    *ours, features, logits = differences(
        source, source, 'torchvision', to_layout(source.state, source.arch, 'torchvision'))
    gaps = [float(line.split(' (')[0].split()[-1]) for line in (*ours, features, logits)]
    assert max(gaps[:2]) < 1e-10
    assert min(gaps[2:]) > 1e-4
    assert "of torchvision's efficientnet_b0: largest relative difference from timm's tf_" in logits


def test_what_another_library_loads_is_what_the_file_holds(b0):
    from dataclasses import replace

    from mmeffnet.engine.judges import differences
    source = replace(load_weights('b0.pth'), stated=dict(padding='symmetric', eps=1e-5))
    state = to_layout(source.state, source.arch, 'torchvision')
    state['classifier.1.bias'] = state['classifier.1.bias'] + 1
    *_, features, logits = differences(source, source, 'torchvision', state)
    gaps = [float(line.split(' (')[0].split()[-1]) for line in (features, logits)]
    assert gaps[0] < 1e-10 < 1e-2 < gaps[1]


def test_a_given_padding_stays_with_the_file_and_does_not_go_against_it(b0, capsys):
    for to in ('mmeffnet', 'timm'):
        convert('b0.pth', f'{to}.pth', '--to', to)
    path = convert('b0.pth', 'clean.pth', '--padding', 'symmetric')
    weights = load_weights(path)
    assert (weights.padding, weights.eps) == ('symmetric', 1e-5)
    assert f"--padding same: '{path}' was trained with padding symmetric, which" in fails(
        capsys, path, 'other.pth', '--padding', 'same')
    convert(path, 'theirs.pth', '--to', 'torchvision', '--padding', 'symmetric')


@pytest.mark.parametrize(('to', 'padding', 'eps', 'usual'), [
    ('timm', 'same', 0.01, 1e-3), ('torchvision', 'symmetric', 1e-3, 1e-5),
    ('mmpretrain', 'same', 1e-5, 1e-3)])
def test_another_eps_alone_is_enough_to_be_refused(to, padding, eps, usual, b0, capsys):
    state = load_weights('b0.pth').state
    torch.save(dict(state_dict=state, meta=dict(mmeffnet_weights='0', eps=eps)), 'stated.pth')
    arguments = ['stated.pth', 'clean.pth', '--padding', padding]
    assert (f"'stated.pth' has padding {padding} and BatchNorm eps {eps}, and the network of {to} "
            f'padding {padding} and BatchNorm eps {usual}: ') in fails(
        capsys, *arguments, '--to', to)
    # A padding that is given brings its eps where the file states none.
    weights = load_weights(convert(*arguments))
    assert (weights.padding, weights.eps) == (padding, eps)


def _shapes(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()
            if not key.endswith('num_batches_tracked')}


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('library', ['mmpretrain', 'timm', 'torchvision'])
def test_a_library_builds_the_variants_that_are_written_for_it(library, variant, monkeypatch):
    from mmeffnet.engine.convert import BUILT
    # mmpretrain takes numbers out of one, which the meta device has none of.
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    create = dict(timm=_of_timm, torchvision=_of_torchvision, mmpretrain=_of_mmpretrain)[library]
    with torch.device('meta'):
        ours = {f'backbone.{k}': v for k, v in EfficientNet(variant).state_dict().items()}
        try:
            theirs = _shapes(create(variant))
        except (AssertionError, ValueError):
            theirs = {}
    if theirs:
        layout = 'mmeffnet' if library == 'mmpretrain' else library
        ours = _shapes(to_layout(ours, VARIANTS[variant].arch, layout))
    assert (ours == theirs) == (variant in BUILT[library])


def _of_timm(variant):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    networks = [timm.create_model(f'{tf}efficientnet_{variant}', num_classes=0).state_dict()
                for tf in ('', 'tf_')]
    assert _shapes(networks[0]) == _shapes(networks[1])
    return networks[0]


def _of_torchvision(variant):
    from torchvision import models
    state = models.get_model(f'efficientnet_{variant}').state_dict()
    return {key: value for key, value in state.items() if not key.startswith('classifier.')}


def _of_mmpretrain(variant):
    from mmpretrain.models import EfficientNet as Theirs
    return {f'backbone.{key}': value for key, value in Theirs(variant).state_dict().items()}


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(files, capsys):
    folder, _ = files
    before = sorted(folder.iterdir())
    assert 'must end in .pth or .safetensors' in fails(capsys, 'theirs.pth', 'clean.bin')
    assert "the folder 'gone' does not exist" in fails(capsys, 'theirs.pth', 'gone/clean.pth')
    for to in ('torchvision', 'mmpretrain'):
        error = fails(capsys, 'theirs.pth', 'clean.pth', '--to', to)
        assert f"'theirs.pth' is of lite0, and no network of {to} has its tensors" in error
        assert 'choose --to mmeffnet or timm' in error
    assert "'gone.pth' does not exist" in fails(capsys, 'gone.pth', 'clean.pth')
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(suffix, files, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 20, before[1]))
    try:
        error = fails(capsys, 'theirs.pth', f'clean.{suffix}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error == f"error: 'clean.{suffix}' could not be written: File too large\n"
    assert [*files[0].iterdir()] == [files[0] / 'theirs.pth']


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_the_file_may_be_read_by_whom_any_other_may(suffix, here):
    path = convert(custom(), f'clean.{suffix}')
    (here / 'any').touch()
    assert path.stat().st_mode == (here / 'any').stat().st_mode


@pytest.mark.parametrize('prefix', ['teacher.backbone', 'teacher.'])
def test_one_of_several_networks_is_chosen_by_its_prefix(prefix, here, capsys):
    one = torch.load(custom(), weights_only=True)['state_dict']
    torch.save({**{f'student.{key}': value + 1 for key, value in one.items()},
                **{f'teacher.{key}': value for key, value in one.items()}}, 'both.pth')
    assert "prefixes 'student.backbone.', 'teacher.backbone.': choose one by prefix=, or by " \
        'tools/convert.py --prefix' in fails(capsys, 'both.pth', 'clean.pth')
    path = convert('both.pth', 'clean.pth', '--prefix', prefix, '--check')
    written = load_weights(path)
    assert written.classes == 3
    assert all(torch.equal(value, one[key]) for key, value in written.state.items())


def test_values_that_are_not_finite_are_named_and_agree_with_themselves(here, capsys, said):
    custom(more={'head.fc.bias': torch.tensor([1., float('nan'), float('inf')])})
    convert('custom.pth', 'clean.pth', '--check')
    assert '1 tensors have values that are not finite, as of a training that diverged: ' \
        'head.fc.bias' in said[0]
    assert 'tensors are equal bit for bit' in capsys.readouterr().out


def test_what_no_tensor_tells_of_a_training_goes_along(here, capsys):
    """Activation, names of the classes and order of the channels."""
    state = EfficientNet('lite0').state_dict()
    cfg = Config(dict(
        model=dict(type='ImageClassifier', neck=dict(type='GlobalAveragePooling'),
                   head=dict(type='LinearClsHead'), backbone=dict(
                       type='mmeffnet.EfficientNet', arch='lite0', act_cfg=dict(type='SiLU'))),
        data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6])))
    torch.save(dict(
        state_dict={**{f'backbone.{key}': value for key, value in state.items()},
                    'head.fc.weight': torch.ones(2, 1280), 'head.fc.bias': torch.ones(2)},
        meta=dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=['a', 'b']))), 'silu.pth')
    path = convert('silu.pth', 'clean.pth')
    stated = load_weights(path).stated
    assert stated['parts'] == ("model.backbone.act_cfg.type='SiLU'", )
    assert (stated['names'], stated['channel_order']) == (('a', 'b'), 'bgr')
    assert stated['norm'] == Norm(mean=(3, 2, 1), std=(6, 5, 4))
    for source in ('silu.pth', path):
        assert "act_cfg.type='SiLU', which no network of timm has" in fails(
            capsys, source, 'timm.pth', '--to', 'timm')
        with pytest.raises(InputError, match='use tools/test.py with its config'):
            build_network(str(source), device='cpu')


def test_a_backbone_may_come_from_whatever_model(here):
    cfg = Config(dict(default_scope='mmdet', model=dict(type='RetinaNet', backbone=dict(
        type='mmeffnet.EfficientNet', arch='lite0'))))
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in
                                EfficientNet('lite0').state_dict().items()},
                    meta=dict(cfg=cfg.pretty_text)), 'detector.pth')
    assert convert('detector.pth', 'timm.pth', '--to', 'timm')
