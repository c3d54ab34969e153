"""What --cfg-options may set, and what it cannot write; where --work-dir lies."""
import pytest

from mmeffnet.engine import cli
from mmeffnet.engine.config import load_config
from mmeffnet.errors import InputError


def load(path, *options):
    return load_config(path, cli.parse(cli.train_parser(), [
        path, '--cfg-options', *options]).cfg_options)


@pytest.mark.parametrize('option', [
    "randomness={'seed': 3}", "randomness={'seed': 3, 'deterministic': True}", 'randomness=3',
    'env_cfg=fast', 'optim_wrapper.optimizer=dict(lr=0.1)',
    "custom_hooks=[{'type': 'EMAHook'}]"])
def test_text_in_the_place_of_a_dict_names_the_way_out(option, tiny_config):
    key = option.split('=')[0]
    with pytest.raises(InputError, match=f'^--cfg-options {key}=.* has to be a dict, which it '
                                         f'cannot write: name each of its keys, as in {key}.KEY'):
        load(tiny_config(), option)


def test_keys_of_dicts_and_names_in_their_place_are_set(tiny_config):
    cfg = load(tiny_config(), 'randomness.seed=3', 'model.backbone.arch=b1', 'val_cfg=None',
               'custom_hooks=[]', 'param_scheduler=[]', 'vis_backends=WandbVisBackend',
               'default_hooks.checkpoint.filename_tmpl={}_of_us.pth')
    assert cfg.randomness.seed == 3
    assert cfg.model.backbone.arch == 'b1'  # where the config has a dict
    assert cfg.default_hooks.checkpoint.filename_tmpl == '{}_of_us.pth'
    assert cfg.val_cfg is None
    assert cfg.custom_hooks == cfg.param_scheduler == []
    assert cfg.visualizer.vis_backends == 'WandbVisBackend'


@pytest.mark.parametrize(('given', 'meant'), [
    ('~/x', '/home/me/x'), ('~', '/home/me'), ('runs/~x', 'runs/~x'), ('./~/x', './~/x')])
def test_a_work_dir_in_the_home_folder_lies_there(given, meant, monkeypatch):
    """Of --work-dir=~/x bash leaves the ~ as it is."""
    monkeypatch.setenv('HOME', '/home/me')
    for parser, more in ((cli.train_parser(), []), (cli.test_parser(), ['x.pth'])):
        assert cli.parse(parser, ['x.py', *more, f'--work-dir={given}']).work_dir == meant
