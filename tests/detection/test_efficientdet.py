"""EfficientDet against effdet: features, predictions, anchors, losses and sizes."""
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from downstream import need

import mmeffnet
from mmeffnet.detection.family import EFFICIENTDETS, get_efficientdet
from mmeffnet.engine.checkpoint import AnyWeightsHook, load_whole
from mmeffnet.errors import InputError
from mmeffnet.pyramid import check_model

effdet = pytest.importorskip('effdet', reason='effdet is the judge: pip install effdet')
need('mmdet', 'mmcv._ext')

from effdet.anchors import AnchorLabeler, Anchors  # noqa: E402
from effdet.loss import DetectionLoss  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from mmeffnet.detection.detector import CLASSIFIER  # noqa: E402

SIDE = 128
SMALL = dict(fpn_cell_repeats=2, box_class_repeats=2)
TRAIN = dict(assigner=dict(type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
                           min_pos_iou=0, gt_max_assign_all=False, ignore_iof_thr=-1),
             sampler=dict(type='mmdet.PseudoSampler'), allowed_border=-1, pos_weight=-1)
TEST = dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)


@pytest.fixture(autouse=True, scope='module')
def _inside_mmdet():
    """Its parts name others without their package; tests before these left another scope."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def theirs(name, **changes):
    config = effdet.get_efficientdet_config(f'tf_efficientdet_{name}')
    for key, value in {'image_size': (SIDE, SIDE), **changes}.items():
        setattr(config, key, value)
    return effdet.EfficientDet(config, pretrained_backbone=False)


def ours(name, num_classes=90, **changes):
    row = get_efficientdet(name)
    options = dict(repeats=row.fpn_repeats, stacked_convs=row.head_repeats, fusion=row.fusion)
    options.update(changes)
    stacked = options.pop('stacked_convs')
    return MODELS.build(dict(
        type='mmeffnet.EfficientDet',
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor'),
        backbone=dict(type='mmeffnet.EfficientNet', arch=row.arch, out_indices=(3, 4, 5)),
        neck=dict(type='mmeffnet.BiFPN', out_channels=row.channels, num_outs=row.levels,
                  in_channels=mmeffnet.feature_info(row.arch, (3, 4, 5)).channels, **options),
        bbox_head=dict(type='mmeffnet.EfficientDetHead', num_classes=num_classes,
                       in_channels=row.channels, stacked_convs=stacked,
                       anchor_generator=dict(type='mmeffnet.EfficientDetAnchorGenerator',
                                             strides=row.strides,
                                             anchor_scale=row.anchor_scale)),
        train_cfg=TRAIN, test_cfg=TEST))


def calibrated(network, seed=0):
    """Weights and statistics that keep values of a few units through all layers."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if 'running_var' in key or (value.dim() == 1 and key.endswith('weight')):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point() and value.dim() == 1:
            value.normal_(0, 0.1, generator=generator)
    return network


def pair(name, small=True, **changes):
    """effdet's network and ours with its weights, in float64."""
    peer = calibrated(theirs(name, **(SMALL if small else {}), **changes)).double().eval()
    network = ours(name, **(dict(repeats=2, stacked_convs=2) if small else {})).double().eval()
    network.load_state_dict(peer.state_dict(), strict=False)
    return peer, network


def difference(actual, expected):
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def y_first(deltas):
    """Box channels in effdet's order."""
    return deltas.unflatten(1, (-1, 4))[:, :, [1, 0, 3, 2]].flatten(1, 2)


@pytest.mark.parametrize('name', EFFICIENTDETS)
def test_the_table_and_the_sizes_are_those_of_effdet(name):
    config = effdet.get_efficientdet_config(f'tf_efficientdet_{name}')
    row = get_efficientdet(name)
    assert (f'tf_efficientnet_{row.arch}', row.resolution, row.channels, row.fpn_repeats,
            row.head_repeats, row.levels, row.anchor_scale) == (
        config.backbone_name, config.image_size[0], config.fpn_channels,
        config.fpn_cell_repeats, config.box_class_repeats, config.num_levels,
        config.anchor_scale)
    assert row.fusion == ('sum' if config.fpn_name == 'bifpn_sum' else 'fast')
    with torch.device('meta'):
        peer, network = effdet.EfficientDet(config, pretrained_backbone=False), ours(name)
    # The backbone's head convolution takes no part and is not trained.
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == sum(
        p.numel() for p in peer.parameters())


@pytest.mark.parametrize(('name', 'changes'), [
    ('d0', {}), ('d0', dict(small=False)), ('d1', dict(image_size=(192, 128)))])
def test_features_and_predictions_are_those_of_effdet(name, changes):
    peer, network = pair(name, **changes)
    size = changes.get('image_size', (SIDE, SIDE))
    image = torch.randn(2, 3, *size, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = network.neck(network.backbone(image))
        for actual, expected in zip(features, peer.fpn(peer.backbone(image)), strict=True):
            assert difference(actual, expected) < 1e-12
        scores, deltas = network.bbox_head(features)
        their_scores, their_deltas = peer(image)
    for actual, expected in zip(scores, their_scores, strict=True):
        assert difference(actual, expected) < 1e-12
    for actual, expected in zip(deltas, their_deltas, strict=True):
        assert difference(y_first(actual), expected) < 1e-12


@pytest.mark.parametrize(('fusion', 'name'), [('sum', 'bifpn_sum'), ('softmax', 'bifpn_attn')])
def test_other_fusions_are_those_of_effdet(fusion, name):
    peer = calibrated(theirs('d0', fpn_name=name, **SMALL)).double().eval()
    network = ours('d0', fusion=fusion, repeats=2, stacked_convs=2).double().eval()
    network.load_state_dict(peer.state_dict(), strict=False)
    image = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        for actual, expected in zip(network.neck(network.backbone(image)),
                                    peer.fpn(peer.backbone(image)), strict=True):
            assert difference(actual, expected) < 1e-12


@pytest.mark.parametrize('name', ['d0', 'd7', 'd7x'])
def test_anchors_are_those_of_effdet(name):
    config, row = effdet.get_efficientdet_config(f'tf_efficientdet_{name}'), get_efficientdet(name)
    config.image_size = (256, 512)
    boxes = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    generator = ours(name, repeats=1, stacked_convs=1).bbox_head.prior_generator
    sizes = [(256 // stride, 512 // stride) for stride in row.strides]
    assert torch.allclose(torch.cat(generator.grid_priors(sizes, device='cpu')), boxes, atol=1e-3)


def outputs_and_truth():
    generator = torch.Generator().manual_seed(2)
    sizes = [SIDE // stride for stride in (8, 16, 32, 64, 128)]
    scores = [torch.randn(2, 9 * 90, s, s, generator=generator) for s in sizes]
    deltas = [torch.randn(2, 9 * 4, s, s, generator=generator) for s in sizes]
    boxes = [torch.tensor([[3., 5., 50., 44.], [60., 30., 121., 99.]]), torch.empty(0, 4)]
    labels = [torch.tensor([4, 17]), torch.empty(0, dtype=torch.long)]
    return scores, deltas, boxes, labels


def test_losses_are_those_of_effdet_with_an_empty_picture_among_them():
    scores, deltas, boxes, labels = outputs_and_truth()
    head = ours('d0', repeats=1, stacked_convs=1).bbox_head
    losses = head.loss_by_feat(
        scores, deltas, [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels)],
        [dict(img_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))] * 2)
    config = effdet.get_efficientdet_config('tf_efficientdet_d0')
    config.image_size = (SIDE, SIDE)
    labeler = AnchorLabeler(Anchors.from_config(config), 90, match_threshold=0.5)
    # Its classes count from 1, and it knows an empty picture by a class of -1.
    targets = labeler.batch_label_anchors(
        [boxes[0][:, [1, 0, 3, 2]], torch.zeros(1, 4)],
        [labels[0].float() + 1, torch.tensor([-1.])])
    _, class_loss, box_loss = DetectionLoss(config)(scores, [y_first(d) for d in deltas], *targets)
    assert sum(losses['loss_cls']).item() == pytest.approx(class_loss.item(), rel=1e-5)
    assert sum(losses['loss_bbox']).item() == pytest.approx(50 * box_loss.item(), rel=1e-5)


def samples(*boxes):
    found = []
    for box in boxes:
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE),
                                             batch_input_shape=(SIDE, SIDE),
                                             scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=torch.tensor(box).reshape(-1, 4),
                                           labels=torch.zeros(len(box), dtype=torch.long))
        sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4))
        found.append(sample)
    return found


@pytest.mark.parametrize('boxes', [([[3., 5., 50., 44.]], [[9., 9., 99., 99.]]), ([], [])])
def test_a_step_gives_finite_losses_and_a_gradient_to_every_trained_weight(boxes):
    network = ours('d0', num_classes=3, repeats=1, stacked_convs=1)
    network.init_weights()
    losses = network.train()(torch.randn(2, 3, SIDE, SIDE), samples(*boxes), mode='loss')
    total = sum(sum(values) for values in losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [name for name, p in network.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())] == []


def test_classes_start_at_a_probability_of_one_in_a_hundred():
    network = ours('d0', num_classes=3, repeats=1, stacked_convs=1)
    network.init_weights()
    assert torch.allclose(network.bbox_head.classes.predict.pointwise.bias.sigmoid(),
                          torch.tensor(0.01))


def test_ninety_numbers_of_coco_fit_eighty_classes():
    peer = calibrated(theirs('d0', **SMALL))
    network = ours('d0', num_classes=80, repeats=2, stacked_convs=2)
    network.load_state_dict(peer.state_dict(), strict=False)
    bias = peer.class_net.predict.conv_pw.bias.unflatten(0, (9, 90))
    found = network.bbox_head.classes.predict.pointwise.bias.unflatten(0, (9, 80))
    # By mmdet's order: class 0 is person (1), 11 stop sign (13), 79 toothbrush (90).
    for ours_, number in ((0, 1), (11, 13), (79, 90)):
        assert torch.equal(found[:, ours_], bias[:, number - 1])


def test_a_classifier_of_other_classes_is_left_out_and_no_network_to_be_tested(said, tmp_path):
    peer = calibrated(theirs('d0', **SMALL))
    network = ours('d0', num_classes=3, repeats=2, stacked_convs=2)
    before = network.bbox_head.classes.predict.pointwise.weight.detach().clone()
    missing = network.load_state_dict(peer.state_dict(), strict=False).missing_keys
    assert [key for key in missing if not key.startswith('backbone.')] == [*CLASSIFIER]
    assert torch.equal(network.bbox_head.classes.predict.pointwise.weight, before)
    assert torch.equal(network.bbox_head.classes.predict.depthwise.weight,
                       peer.class_net.predict.conv_dw.weight)
    assert [line for line in said if 'effdet' in line] == [
        'the state dict of effdet: bbox_head.classes.predict.pointwise.weight and '
        'bbox_head.classes.predict.pointwise.bias left out, it has 90 classes and the model 3, '
        'so its classifier starts anew']
    torch.save(peer.state_dict(), tmp_path / 'd0.pth')
    with pytest.raises(InputError, match='lacks 2 tensors of the model: bbox_head.classes.predict'):
        load_whole(tmp_path / 'd0.pth', network)


@pytest.mark.parametrize(('wrap', 'address'), [
    (dict, 'd0.pth'), (lambda state: dict(state_dict_ema=state), 'd0.pth'),
    (dict, 'mmeffnet://d0.pth'), (dict, 'd0.safetensors'),
    (lambda state: {f'model.model.{key}': tensor for key, tensor in state.items()}, 'd0.pth')])
def test_load_from_and_the_test_tool_load_neck_and_heads(wrap, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    peer, given = calibrated(theirs('d0', **SMALL)), address.removeprefix('mmeffnet://')
    save = save_file if given.endswith('.safetensors') else torch.save
    save(wrap(peer.state_dict()), given)
    whole, hooked = (ours('d0', repeats=2, stacked_convs=2) for _ in range(2))
    load_whole(given, whole)
    loaded = CheckpointLoader.load_checkpoint(address)
    AnyWeightsHook().after_load_checkpoint(
        SimpleNamespace(model=hooked, hooks=[], _resume=False, _load_from=address), loaded)
    assert hooked.load_state_dict(loaded['state_dict'], strict=False).missing_keys == []
    expected = ours('d0', repeats=2, stacked_convs=2)
    expected.load_state_dict(peer.state_dict(), strict=False)
    unused = f'backbone.layers.{len(expected.backbone.layers) - 1}.'
    for key, tensor in expected.state_dict().items():
        if not key.startswith(unused):
            assert torch.equal(whole.state_dict()[key], tensor), key
            assert torch.equal(hooked.state_dict()[key], tensor), key


def test_the_weights_of_a_training_bench_load_too():
    peer = calibrated(theirs('d0', **SMALL))
    network = ours('d0', repeats=2, stacked_convs=2)
    network.load_state_dict(effdet.DetBenchTrain(peer).state_dict(), strict=False)
    assert torch.equal(network.bbox_head.boxes.convs[1].depthwise.weight,
                       peer.box_net.conv_rep[1].conv_dw.weight)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda s: s.pop('fpn.cell.0.fnode.0.combine.edge_weights'),
     r'effdet lacks neck\.layers\.0\.nodes\.0\.weights'),
    (lambda s: [s.pop(f'{net}_net.predict.conv_pw.weight') for net in ('class', 'box')],
     r'effdet lacks bbox_head\.classes\.predict\.pointwise\.weight, bbox_head\.boxes\.predict'),
    (lambda s: s.update({'class_net.predict.conv_pw.weight': torch.ones(480, 64, 1, 1)}),
     r'has another shape of bbox_head\.classes\.predict\.pointwise\.weight: take the config'),
    (lambda s: s.update({'fpn.more': torch.ones(1)}), 'has no place here for fpn.more'),
    (lambda s: s.update({'box_net.conv_rep.0.conv_pw.bias': torch.ones(1)}),
     r'has another shape of bbox_head\.boxes\.convs\.0\.pointwise\.bias'),
    (lambda s: [s.pop(key) for key in list(s) if key.startswith('backbone.')],
     'the state dict of effdet has no backbone')])
def test_a_state_dict_that_does_not_fit_is_refused(change, message):
    state = theirs('d0', **SMALL).state_dict()
    change(state)
    with pytest.raises(InputError, match=message):
        ours('d0', repeats=2, stacked_convs=2).load_state_dict(state, strict=False)


def test_its_own_state_dict_loads_strictly():
    network = ours('d0', repeats=1, stacked_convs=1)
    state = network.state_dict()
    other = ours('d0', repeats=1, stacked_convs=1)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(7)
    other.load_state_dict(state, strict=True)
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('fusion', 'mean', "fusion='mean' must be one of fast, softmax, sum"),
    ('num_outs', 2, 'num_outs=2 must be at least 2 and the number of inputs, 3'),
    ('repeats', 0, 'repeats=0 must be at least 1')])
def test_a_wrong_argument_of_the_neck_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='mmeffnet.BiFPN', in_channels=[40, 112, 320], out_channels=64,
                          **{field: value}))


def test_the_example_of_the_documentation_detects():
    page = (Path(__file__).parents[2] / 'docs' / 'downstream.md').read_text()
    (code, ) = re.findall(r"```python\n(model = dict\(\n    type='mmeffnet.EfficientDet'.*?)```",
                          page, flags=re.DOTALL)
    found = {}
    exec(code, found)
    check_model(found['model'])
    network = MODELS.build(ConfigDict(found['model'])).eval()
    with torch.no_grad():
        (sample, ) = network(torch.randn(1, 3, SIDE, SIDE), samples([])[:1], mode='predict')
    assert {'bboxes', 'scores', 'labels'} <= set(sample.pred_instances.keys())
