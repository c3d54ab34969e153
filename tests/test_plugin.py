"""The package as a plugin, each time in a fresh process and outside of any repository.

What has been imported, and in which order, decides about registries; this process has
imported everything already.
"""
import subprocess
import sys
from textwrap import dedent

import pytest
from peers import TINY

import mmeffnet

CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier', backbone=dict(type='mmeffnet.EfficientNet', arch=TINY),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmeffnet.EfficientNetHead', num_classes=5, in_channels=32))


@pytest.fixture
def python(tmp_path):
    """Run code elsewhere; gives what it printed."""
    def run(code):
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', dedent(code)], text=True,
                              capture_output=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.split('\n')[-2]  # libraries may print before
    return run


@pytest.fixture
def config(tmp_path):
    """A config file that names the package and its classifier, and imports nothing else."""
    path = tmp_path / 'classifier.py'
    path.write_text(f"model = {CLASSIFIER!r}\nwork_dir = 'runs'\n"
                    "default_scope = 'mmpretrain'\n"
                    "custom_imports = dict(imports=['mmeffnet'])\n")
    return path


# The scope.

def test_prefix_alone_builds_the_scaling(python):
    assert python('''
        from mmengine.registry import TASK_UTILS
        scaling = TASK_UTILS.build(dict(type='mmeffnet.ModelScaling', width=2.0, depth=3.1))
        print(scaling.width, scaling.depth)
    ''') == '2.0 3.1'


@pytest.mark.parametrize(('missing', 'words'), [
    ('mmdet', 'needs mmdet, which is not installed. Run: pip install "mmeffnet[detection]"'),
    ('mmseg', 'needs mmseg, which is not installed. Run: pip install "mmeffnet[segmentation]"'),
    ('mmcv._ext', 'needs the compiled operators of mmcv, which is not installed. Run: '
     'python tools/build_operators.py')])
def test_type_of_a_project_that_is_missing_names_the_command(python, tmp_path, missing, words):
    (tmp_path / 'neck.py').write_text(f'import {missing}')
    assert words in python(f'''
        import sys
        sys.modules[{missing!r}] = None  # as if it was not installed
        sys.path.insert(0, '.')
        from mmengine.registry import MODELS
        from mmeffnet import registry
        registry.DOWNSTREAM['Neck'] = 'neck'
        try:
            MODELS.build(dict(type='mmeffnet.Neck'))
        except Exception as error:
            print(type(error).__name__, error)
    ''')


def test_type_of_another_project_is_imported_when_it_is_asked_for(python, tmp_path):
    (tmp_path / 'neck.py').write_text("""
from mmeffnet.registry import MODELS


@MODELS.register_module()
class Neck:
    pass
""")
    assert python('''
        import sys
        sys.path.insert(0, '.')
        from mmengine.registry import MODELS
        from mmeffnet import registry
        registry.DOWNSTREAM['Neck'] = 'neck'
        MODELS.get('mmeffnet.EfficientNet')
        before = 'neck' in sys.modules
        print(before, type(MODELS.build(dict(type='mmeffnet.Neck'))).__module__)
    ''') == 'False neck'


def test_import_loads_neither_torch_nor_model_code(python):
    assert python('''
        import sys, mmeffnet
        print([name for name in ('torch', 'mmcv', 'mmeffnet.models') if name in sys.modules])
    ''') == '[]'


@pytest.mark.parametrize(('imports', 'first'), [
    ('pass', 'mmpretrain'), ('import mmpretrain.models, mmeffnet.models', 'mmeffnet'),
    *(pytest.param(*order, marks=pytest.mark.slow) for order in (
        ('pass', 'mmeffnet'), ('import mmeffnet, mmpretrain', 'mmpretrain'),
        ('import mmpretrain, mmeffnet', 'mmeffnet'),
        ('import mmeffnet.models, mmpretrain.models', 'mmpretrain')))])
def test_each_scope_gives_its_own_class_in_any_order(python, imports, first):
    assert python(f'''
        {imports}
        from mmengine.registry import MODELS
        scopes = sorted(('mmeffnet', 'mmpretrain'), key=lambda scope: scope != {first!r})
        found = {{s: MODELS.get(s + '.EfficientNet').__module__ for s in scopes}}
        print(found['mmeffnet'], found['mmpretrain'])
    ''') == 'mmeffnet.models.efficientnet mmpretrain.models.backbones.efficientnet'


def test_name_without_prefix_is_mmpretrains_under_its_default_scope(python):
    assert python('''
        import mmeffnet.models
        from mmengine.registry import MODELS, init_default_scope
        init_default_scope('mmpretrain')
        print(type(MODELS.build(dict(type='EfficientNet'))).__module__)
    ''') == 'mmpretrain.models.backbones.efficientnet'


# Builders.

def test_runner_builds_without_custom_imports(python, tmp_path):
    assert python(f'''
        from mmengine.config import Config
        from mmengine.runner import Runner
        model = Runner.from_cfg(Config(dict(
            model={CLASSIFIER!r}, work_dir='runs', default_scope='mmpretrain'))).model
        print(type(model.backbone).__module__, type(model.head).__module__)
    ''') == 'mmeffnet.models.efficientnet mmeffnet.models.head'


def test_get_model_builds_a_config_with_custom_imports_alone(python, config):
    assert python(f'''
        import torch
        from mmengine.config import Config
        from mmpretrain import get_model
        model = get_model(Config.fromfile({str(config)!r}), device='cpu')
        print(type(model.backbone).__module__, tuple(model(torch.zeros(2, 3, 64, 64)).shape))
    ''') == 'mmeffnet.models.efficientnet (2, 5)'


# Configs by name.

def test_child_config_inherits_by_package_name_from_any_folder(python, tmp_path):
    (tmp_path / 'child.py').write_text(
        "_base_ = 'mmeffnet::efficientnet/efficientnet-b3_8xb32_in1k.py'\n"
        'model = dict(head=dict(num_classes=7))\n')
    assert python('''
        import mmeffnet
        from mmengine.config import Config
        model = Config.fromfile('child.py').model
        print(model.backbone.type, model.backbone.arch, model.head.num_classes)
    ''') == 'mmeffnet.EfficientNet b3 7'


def test_child_config_may_inherit_by_path(python, tmp_path):
    base = mmeffnet.config_path('efficientnet/efficientnet-b3_8xb32_in1k.py')
    (tmp_path / 'child.py').write_text(f'_base_ = {base!r}\n')
    assert python('''
        from mmengine.config import Config
        print(Config.fromfile('child.py').model.backbone.arch)
    ''') == 'b3'


def test_unknown_config_is_refused_naming_the_nearest():
    near = "did you mean 'efficientnet/efficientnet-b3_8xb32_in1k.py'"
    with pytest.raises(FileNotFoundError, match=f'ships no config .*{near}'):
        mmeffnet.config_path('efficientnet/efficientnet-b3_8xb32.py')


def test_a_config_of_another_package_is_found_by_path(python):
    assert python('''
        import mmeffnet
        from pathlib import Path
        print(Path(mmeffnet.config_path('mmpretrain::resnet/resnet18_8xb32_in1k.py')).is_file())
    ''') == 'True'


def test_a_config_of_a_package_that_is_missing_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    with pytest.raises(ModuleNotFoundError, match=r"mmseg is not installed.*'fcn/some\.py'.*"
                                                  r'pip install "mmeffnet\[segmentation\]"'):
        mmeffnet.config_path('mmseg::fcn/some.py')


def test_a_package_whose_fork_has_another_name_is_found(python, tmp_path):
    """MMEngine looks mmseg up as the distribution mmsegmentation, which its fork is not."""
    configs = tmp_path / 'mmseg' / '.mim' / 'configs' / 'fcn'
    configs.mkdir(parents=True)
    (tmp_path / 'mmseg' / '__init__.py').touch()
    (configs / 'base.py').write_text('a = 1\n')
    (configs.parents[1] / 'model-index.yml').write_text('Import: []\n')
    (tmp_path / 'child.py').write_text("_base_ = 'mmseg::fcn/base.py'\n")
    assert python('''
        import sys
        sys.path.insert(0, '.')
        import mmeffnet
        from mmengine.config import Config
        print(Config.fromfile('child.py').a)
    ''') == '1'


# Without a stack.

def without(package):
    """Code that makes a package look as if it were not installed."""
    return f'import sys, warnings\nsys.modules[{package!r}] = None\n'


@pytest.mark.parametrize('package', ['mmengine', 'torch'])
def test_class_that_needs_a_missing_package_says_what_to_install(python, package):
    message = python(without(package) + '''
import mmeffnet
try:
    mmeffnet.EfficientNet
except ImportError as error:
    print(error)''')
    assert message.startswith(f'mmeffnet.EfficientNet needs {package}, which is not installed')
    assert 'pip install "mmeffnet[openmmlab]"' in message


@pytest.mark.parametrize('package', ['mmengine', 'torch'])
def test_import_without_a_package_warns_what_to_install(python, package):
    message = python(without(package) + '''
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mmeffnet
print([str(w.message) for w in caught if 'mmeffnet[' in str(w.message)])''')
    assert message.startswith(f"['{package} is not installed; models and tools need it.")


@pytest.mark.parametrize('package', ['mmengine', 'torch'])
def test_architectures_need_no_stack(python, package):
    assert python(without(package) + '''
import mmeffnet
print(mmeffnet.VARIANTS['b7'].arch.head, mmeffnet.ModelScaling(phi=1).resolution)
''') == '2560 258'


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mmeffnet' has no attribute 'EficientNet'"):
        _ = mmeffnet.EficientNet


def test_public_names_are_listed_and_exist():
    assert all(hasattr(mmeffnet, name) for name in mmeffnet.__all__)
    assert set(mmeffnet.__all__) <= set(dir(mmeffnet))
