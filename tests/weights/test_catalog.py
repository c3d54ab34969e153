"""The catalog: what the libraries themselves publish, files that are not what they seem."""
import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch

from mmeffnet.errors import InputError
from mmeffnet.variants import HALF_NORM, IMAGENET_NORM, VARIANTS
from mmeffnet.weights import CATALOG, find, get_entry, identify, verify
from mmeffnet.weights.sources import published
from mmeffnet.weights.translate import translate

ROOT = Path(__file__).resolve().parents[2]
PUBLISHERS = ('mmpretrain', 'timm', 'torchvision', 'keras', 'tpu', 'lukemelas')


def test_every_publisher_is_there_and_every_variant_has_weights():
    assert {entry.name.split('_')[1].split('-')[0] for entry in CATALOG.values()} == set(
        PUBLISHERS)
    assert {entry.variant for entry in CATALOG.values()} == set(VARIANTS)
    assert len(CATALOG) == 156


@pytest.mark.parametrize('tool', ['make_catalog.py', pytest.param(
    'make_metafiles.py', marks=pytest.mark.slow)])
def test_generated_files_are_those_of_the_installed_libraries(tool):
    """Only in a checkout, and with the versions that the files were written from."""
    if not (ROOT / 'tools' / tool).is_file():
        pytest.skip('no checkout: the maintainers\' tools are not here')
    import timm
    if timm.__version__ != '1.0.31':
        pytest.skip('another timm publishes other sets')
    if 'mmpretrain' not in packages_distributions()['mmpretrain']:
        pytest.skip('the fork of mmpretrain names its own host')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tools' / tool), '--check'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pruned_networks_of_timm_are_in_the_catalog_or_refused():
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    others = [name for name in timm.list_pretrained('efficientnet*_pruned')
              if not published(f'timm://{name}')]
    assert others == [f'efficientnet_{variant}_pruned.in1k' for variant in ('b1', 'b2', 'b3')]
    for name in others:
        with torch.device('meta'):
            network = timm.create_model(name)
        with pytest.raises(InputError, match='the shapes of none of the networks'):
            translate(network.state_dict(), name)


@pytest.mark.parametrize('name', [name for name, entry in CATALOG.items() if 'pruned' in name])
def test_the_settings_of_pruned_networks_are_those_of_timm(name):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    entry = get_entry(name)
    with torch.device('meta'):
        judge = timm.create_model(entry.source.removeprefix('timm://'))
    assert type(judge.conv_stem) is torch.nn.Conv2d
    assert judge.conv_stem.padding == (1, 1)
    assert entry.padding == 'symmetric'
    assert judge.bn1.eps == entry.eps
    cfg = judge.pretrained_cfg
    assert [255 * value for value in cfg['mean']] == pytest.approx(entry.norm.mean)
    assert [255 * value for value in cfg['std']] == pytest.approx(entry.norm.std)
    assert cfg['input_size'][1] == entry.resolution
    assert cfg['crop_pct'] == entry.crop


def test_mmpretrains_files_are_all_in_the_catalog():
    import mmpretrain
    import yaml
    path = Path(mmpretrain.__file__).parent / '.mim/configs/efficientnet/metafile.yml'
    models = yaml.safe_load(path.read_text())['Models']
    # The fork has the same files on another host.
    assert {Path(entry.address).name for entry in find(layout='mmeffnet')} == {
        Path(m['Weights']).name for m in models}
    assert all(identify(m['Weights']).layout == 'mmeffnet' for m in models)
    assert not {m['Name'].lower() for m in models} & set(CATALOG)


@pytest.mark.parametrize(('name', 'expected'), [
    # Numbers from the sources themselves, typed in by hand.
    ('efficientnet-b0_tpu-aa_in1k', dict(top1=77.1, resolution=224, norm=IMAGENET_NORM)),
    ('efficientnet-b8_tpu-advprop_in1k', dict(top1=85.5, resolution=672, norm=HALF_NORM)),
    ('efficientnet-l2_tpu-noisystudent-475px_in1k', dict(top1=88.2, resolution=475)),
    ('efficientnet-lite3_tpu-lite_in1k', dict(top1=79.8, resolution=280, norm=HALF_NORM)),
    ('efficientnet-lite3_timm-tf_in1k', dict(top1=79.808, resolution=300,
                                             results_source='timm')),
    ('efficientnet-b2_keras_in1k', dict(top1=80.1, top5=94.9)),
    # timm's own figure, and not that of the original weights.
    ('efficientnet-es_timm-tf_in1k', dict(top1=76.6, top5=93.202, results_source='timm')),
    # Trained at 256 px; timm evaluates it at 288, without a border.
    ('efficientnet-b2_timm-ra_in1k', dict(top1=80.61, top5=95.314, resolution=288, scale=288)),
    # The TPU repository's present table has no figure for it.
    ('efficientnet-b8_tpu-ra_in1k', dict(top1=None)),
    ('efficientnet-el_tpu-edgetpu_in1k', dict(top1=80.62, resolution=300)),
    ('efficientnet-b0_mmpretrain-noisystudent_in1k', dict(top1=78.8)),
    ('efficientnet-b1_torchvision-v2_in1k', dict(
        top1=79.838, resolution=240, scale=255, padding='symmetric', eps=1e-5,
        interpolation='bilinear')),
    ('efficientnet-b5_torchvision-v1_in1k', dict(eps=1e-3, scale=456)),
    ('efficientnet-b5_timm-sw_in12k', dict(classes=11821, scale=437)),
    ('efficientnet-b0_timm-ra4-e3600-r224_in1k', dict(norm=HALF_NORM, scale=256)),
    ('efficientnet-es_timm-pruned_in1k', dict(top1=75.014, top5=92.446, digest='sha256:1b7248cf')),
    ('efficientnet-el_timm-pruned_in1k', dict(top1=80.3, top5=95.222, resolution=300, scale=331)),
    ('efficientnet-b3_timm-tf-aa_in1k', dict(scale=331, digest='sha256:84b4657e'))])
def test_entries_say_what_their_source_says(name, expected):
    entry = get_entry(name)
    assert {field: getattr(entry, field) for field in expected} == expected
    assert entry.channel_order == 'rgb'


def test_a_misspelt_name_gives_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'efficientnet-b0_tpu-aa_in1k'"):
        get_entry('efficientnet-b0_tpu-aaa_in1k')
    with pytest.raises(ValueError, match="no field is called 'varient'; did you mean 'variant'"):
        find(varient='b0')


@pytest.mark.parametrize(('source', 'name'), [
    ('timm://tf_efficientnet_b0.aa_in1k', 'efficientnet-b0_timm-tf-aa_in1k'),
    ('downloads/tf_efficientnet_b0_aa-827b6e33.pth', 'efficientnet-b0_timm-tf-aa_in1k'),
    ('mmeffnet://efficientnet-b0_keras_in1k', 'efficientnet-b0_keras_in1k'),
    ('https://mirror/tf_efficientnet_b0_aa-827b6e33.pth', 'efficientnet-b0_timm-tf-aa_in1k'),
    ('lite://lite2', 'efficientnet-lite2_lukemelas_in1k'),
    ('https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth',
     'efficientnet-b1_torchvision-v2_in1k')])
def test_a_set_is_known_by_source_address_and_file_name(source, name):
    assert identify(source).name == name


@pytest.mark.parametrize('source', ['model.safetensors', 'efficientnet-b0.tar.gz', 'b0.pth',
                                    'https://elsewhere/b0.pth'])
def test_names_that_say_nothing_identify_nothing(source):
    assert identify(source) is None


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path):
    path = tmp_path / 'weights-01234567.pth'
    path.write_bytes(b'weights')
    digest = hashlib.sha256(b'weights').hexdigest()
    entry = replace(get_entry('efficientnet-b0_tpu-aa_in1k'), digest=f'sha256:{digest[:8]}')
    verify(path, entry)
    verify(path, replace(entry, digest='md5:' + hashlib.md5(b'weights').hexdigest()))
    with pytest.raises(InputError, match=f'the sha256 {digest[:8]}, and {entry.name} 00000000: '
                                         'remove it and download it again, or rename the'):
        verify(path, replace(entry, digest='sha256:00000000'))
    with pytest.raises(InputError, match='has 7 bytes, and .* about 21,444,428: remove it'):
        verify(path, replace(entry, size=21444428))
