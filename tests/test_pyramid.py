"""Necks and heads that do not fit the backbone are refused by name, with the right numbers."""
import copy
import re

import pytest

from mmeffnet import EfficientNet, check_model
from mmeffnet.errors import InputError


def backbone(*out_indices, arch='b0', **options):
    return dict(type='mmeffnet.EfficientNet', arch=arch, out_indices=out_indices, **options)


def retinanet(channels=(24, 40, 112, 320), strides=(8, 16, 32, 64, 128), start_level=1,
              out_indices=(2, 3, 4, 5), **options):
    return dict(
        type='RetinaNet', backbone=backbone(*out_indices, **options),
        neck=dict(type='FPN', in_channels=list(channels), out_channels=256, num_outs=5,
                  start_level=start_level, add_extra_convs='on_input'),
        bbox_head=dict(type='RetinaHead', in_channels=256, anchor_generator=dict(
            type='AnchorGenerator', strides=list(strides))))


# As their libraries call them.
PYRAMIDS = ['BiFPN', 'CSPNeXtPAFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFCOS_FPN', 'NASFPN', 'PAFPN',
            'RFP', 'YOLOXPAFPN']
EXTENDED = ['BiFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFPN', 'PAFPN', 'RFP']
KEPT = ['BFP', 'CSPNeXtPAFPN', 'DyHead', 'GlobalAveragePooling', 'YOLOXPAFPN']
OTHERS = ['ChannelMapper', 'FPN_DropBlock', 'HRFPN', 'JPU', 'MLANeck', 'MultiLevelNeck']


def test_detector_that_fits_passes():
    check_model(retinanet())
    with pytest.raises(InputError):  # which is no matter of course
        check_model(retinanet(channels=(24, 40, 112, 321)))


def test_channels_of_another_backbone_are_named_with_the_right_ones():
    with pytest.raises(InputError, match=(
            r"model\.neck\.in_channels=\[256, 512, 1024, 2048\]: the backbone \(arch='b0', "
            r'out_indices=\(2, 3, 4, 5\)\) gives \[24, 40, 112, 320\] channels at strides '
            r'\[4, 8, 16, 32\]; write in_channels=\[24, 40, 112, 320\]')):
        check_model(retinanet(channels=(256, 512, 1024, 2048)))


def test_neck_with_a_channel_too_few_is_refused():
    with pytest.raises(InputError, match=r'write in_channels=\[24, 40, 112, 320\]'):
        check_model(retinanet(channels=(40, 112, 320)))


@pytest.mark.parametrize('name', PYRAMIDS)
def test_pyramid_with_two_equal_strides_is_refused(name):
    model = retinanet(channels=(40, 112, 320, 1280), out_indices=(3, 4, 5, 6))
    model['neck']['type'] = name
    with pytest.raises(InputError, match=(
            rf'outputs 5 and 6 both have stride 32, and {name} needs each level coarser than the '
            r'one before; write out_indices=\(3, 4, 5\) and neck.in_channels=\[40, 112, 320\]')):
        check_model(model)


def test_classes_in_the_place_of_names_are_checked_as_these_are():
    model = retinanet(channels=(40, 112, 320, 1280), out_indices=(3, 4, 5, 6))
    model['backbone']['type'], model['neck']['type'] = EfficientNet, type('FPN', (), {})
    with pytest.raises(InputError, match='outputs 5 and 6 both have stride 32, and FPN needs'):
        check_model(model)


def test_stem_and_first_group_have_one_stride_and_the_stem_is_left_out():
    with pytest.raises(InputError, match=r'outputs 0 and 1 .* write out_indices=\(1, 2\)'):
        check_model(retinanet(channels=(32, 16, 24), out_indices=(0, 1, 2), start_level=0))


def test_output_stride_of_16_makes_two_levels_equal():
    with pytest.raises(InputError, match=r'output_stride=16\): outputs 4 and 5 both'):
        check_model(retinanet(output_stride=16))


@pytest.mark.parametrize('names', [
    *([name] for name in EXTENDED), *(['FPN', name] for name in KEPT)], ids='-'.join)
def test_anchors_on_another_grid_than_the_levels_are_refused(names):
    model = retinanet(start_level=0)
    model['neck'] = [{**model['neck'], 'type': name} for name in names]
    with pytest.raises(InputError, match=(
            r'model\.bbox_head\.anchor_generator\.strides=\[8, 16, 32, 64, 128\]: the neck gives '
            r'levels with strides \[4, 8, 16, 32, 64\]; write strides=\[4, 8, 16, 32, 64\]')):
        check_model(model)


def test_strides_as_pairs_mean_the_same():
    check_model(retinanet(strides=[(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]))
    for pair in ((4, 4), (8, 4)):
        with pytest.raises(InputError, match=r'write strides='):
            check_model(retinanet(strides=[pair, (16, 16), (32, 32), (64, 64), (128, 128)]))


def test_points_of_fcos_are_held_against_the_levels():
    detector = retinanet()
    detector['bbox_head'] = dict(type='FCOSHead', strides=[4, 8, 16, 32, 64])
    with pytest.raises(InputError, match=r'model\.bbox_head\.strides=\[4, 8, 16, 32, 64\]'):
        check_model(detector)


@pytest.mark.parametrize('name', ['bbox_roi_extractor', 'mask_roi_extractor'])
def test_regions_are_taken_from_the_first_levels(name):
    detector = retinanet(start_level=0, strides=(4, 8, 16, 32, 64))
    detector['rpn_head'] = detector.pop('bbox_head')
    extractor = dict(type='SingleRoIExtractor', featmap_strides=[4, 8, 16, 32])
    detector['roi_head'] = {name: extractor}
    check_model(detector)
    extractor['featmap_strides'] = [8, 16, 32, 64]
    with pytest.raises(InputError, match=(
            rf'roi_head\.{name}\.featmap_strides=\[8, 16, 32, 64\].*'
            r'write featmap_strides=\[4, 8, 16, 32\]')):
        check_model(detector)


@pytest.mark.parametrize('place', [
    'strides', 'point_strides', 'prior_generator.strides', 'approx_anchor_generator.strides',
    'square_anchor_generator.strides', 'stages.0.anchor_generator.strides'])
def test_whatever_lays_out_anchors_and_points_is_held_against_the_levels(place):
    def detector(strides):
        first, *inner = place.split('.')
        for key in reversed(inner):
            strides = [strides] if key == '0' else {key: strides}
        return {**retinanet(), 'bbox_head': dict(type='Head', in_channels=256, **{first: strides})}
    check_model(detector([8, 16, 32, 64, 128]))
    with pytest.raises(InputError, match=re.escape(
            f'model.bbox_head.{place}=[16, 32, 64, 128, 256]: the neck gives levels with strides '
            f'[8, 16, 32, 64, 128]; write {place.rpartition(".")[2]}=[8, 16, 32, 64, 128]')):
        check_model(detector([16, 32, 64, 128, 256]))


def test_strides_for_inputs_of_one_size_may_be_broken():
    """YOLACT divides 550 pixels by the points of each level: the last by 5."""
    check_model(retinanet(strides=[550 / n for n in (69, 35, 18, 9, 5)]))
    for counts in ((35, 18, 9, 5, 3), (69, 35, 18, 9)):
        with pytest.raises(InputError, match=r'write strides=\[8, 16, 32, 64, 128\]'):
            check_model(retinanet(strides=[550 / n for n in counts]))


@pytest.mark.parametrize(('number', 'right'), [
    (dict(out_indices=(2, 3, 4, 5), channels=(24, 40, 112, 320)), [4, 8, 16, 32, 64]),
    (dict(num_outs=6), [8, 16, 32, 64, 128, 256]), (dict(), None)])
def test_what_our_own_head_has_by_default_is_held_against_the_levels(number, right):
    model = retinanet(**{**dict(out_indices=(3, 4, 5), channels=(40, 112, 320), start_level=0),
                         **{key: number[key] for key in number if key != 'num_outs'}})
    model['neck']['type'] = 'mmeffnet.BiFPN'
    model['neck'].pop('num_outs')  # which ours has by default
    model['neck'].update({key: number[key] for key in number if key == 'num_outs'})
    model['bbox_head'] = dict(type='mmeffnet.EfficientDetHead', in_channels=256)
    if not right:
        check_model(model)
        return
    with pytest.raises(InputError, match=re.escape(
            'model.bbox_head.anchor_generator.strides=[8, 16, 32, 64, 128] (the default): the neck '
            f'gives levels with strides {right}; write strides={right}')):
        check_model(model)
    model['bbox_head']['anchor_generator'] = dict(strides=right)
    check_model(model)


class Points:
    """As mmdet's: the base has strides by default."""

    def __init__(self, in_channels=256, strides=(4, 8, 16, 32, 64), regress_ranges=()):
        pass


class Refined(Points):
    def __init__(self, *args, point_strides=[8, 16, 32, 64, 128], **kwargs):
        super().__init__(*args, **kwargs)


class Anchors(Points):
    def __init__(self, anchor_generator=dict(strides=[4, 8, 16, 32, 64]), **kwargs):
        super().__init__(**kwargs)


class Passing(Points):
    def __init__(self, num_classes=80, **kwargs):
        super().__init__(**kwargs)


class Asking(Points):
    def __init__(self, point_strides, strides=None):
        super().__init__()


@pytest.mark.parametrize(('kind', 'field'), [
    (Points, 'strides'), (Passing, 'strides'), (Anchors, 'anchor_generator.strides'),
    (Refined, None), (Asking, None), (None, None), (print, None)])
def test_what_the_class_of_a_head_has_by_default_is_held_against_the_levels(kind, field):
    """RepPoints has point_strides of its own and inherits strides that it does not use."""
    model = retinanet()
    model['bbox_head'] = dict(in_channels=256, **(dict(type=kind) if kind else {}))
    if not field:
        check_model(model)
        return
    for place in (model, dict(model, bbox_head=dict(stages=[model['bbox_head']]))):
        with pytest.raises(InputError, match=re.escape(
                f'{field}=[4, 8, 16, 32, 64] (the default): the neck gives levels with strides '
                '[8, 16, 32, 64, 128]; write strides=[8, 16, 32, 64, 128]')):
            check_model(place)
    owner = dict(strides=[8, 16, 32, 64, 128])
    model['bbox_head'].update(owner if field == 'strides' else dict(anchor_generator=owner))
    check_model(model)


def test_a_neck_of_one_level_makes_it_from_the_last_output():
    model = dict(backbone=backbone(4, 5, output_stride=16),
                 neck=dict(type='DilatedEncoder', in_channels=320, out_channels=512),
                 bbox_head=dict(type='YOLOFHead', anchor_generator=dict(strides=[32])))
    with pytest.raises(InputError, match=r'gives levels with strides \[16\]; write strides'):
        check_model(model)
    model['bbox_head']['anchor_generator']['strides'] = [16]
    check_model(model)


def test_a_neck_of_one_output_has_its_width():
    model = dict(backbone=backbone(-1), neck=dict(type='DilatedEncoder', in_channels=1280))
    check_model(model)
    model['neck']['in_channels'] = 1000
    with pytest.raises(InputError, match=r'neck\.in_channels=1000: .* write in_channels=1280$'):
        check_model(model)


@pytest.mark.parametrize('name', ['bbox_head', 'rpn_head'])
def test_a_head_of_another_width_than_the_neck_is_refused(name):
    model = retinanet()
    model[name] = {**model.pop('bbox_head'), 'in_channels': 88}
    with pytest.raises(InputError, match=rf'model\.{name}\.in_channels=88: the neck gives levels '
                                         r'with 256 channels; write in_channels=256'):
        check_model(model)
    model['neck'] = [model['neck'], dict(type='DyHead', in_channels=256, out_channels=88)]
    check_model(model)


@pytest.mark.parametrize(('channels', 'outputs', 'taken', 'both'), [
    ((32, 16, 24, 40, 112, 320), (0, 1, 2, 3, 4, 5), dict(start_level=3), 'outputs 0 and 1'),
    ((40, 112, 320, 1280), (3, 4, 5, 6), dict(end_level=2, num_outs=3), 'outputs 5 and 6')])
def test_a_pyramid_may_leave_out_levels_that_are_equal(channels, outputs, taken, both):
    model = retinanet(channels=channels, out_indices=outputs, start_level=0)
    del model['bbox_head']
    with pytest.raises(InputError, match=f'{both} both have stride'):
        check_model(model)  # which takes all of them
    model['neck'].update(taken)
    assert check_model(model) is None


def test_a_neck_that_leaves_out_the_first_level_by_itself_may_be_given_an_equal_one():
    model = dict(backbone=backbone(0, 1, 3, 4), neck=dict(
        type='NASFCOS_FPN', in_channels=[32, 16, 40, 112], out_channels=8, num_outs=5))
    assert check_model(model) is None
    model['neck']['start_level'] = 0
    with pytest.raises(InputError, match='outputs 0 and 1 both have stride 2'):
        check_model(model)


def test_the_last_level_that_mmsegs_pyramid_leaves_out_is_the_end_level():
    model = dict(backbone=backbone(2, 3, 4, 5, output_stride=16),
                 neck=dict(type='FPN', in_channels=[24, 40, 112, 320], out_channels=64,
                           end_level=3, num_outs=3),
                 decode_head=dict(type='FCNHead', in_channels=64, in_index=2))
    check_model(model)
    model['decode_head']['in_index'] = 3
    with pytest.raises(InputError, match='there are 3 outputs'):
        check_model(model)


def test_a_level_that_is_to_go_moves_the_last_one():
    model = retinanet(channels=(32, 16, 24, 40), out_indices=(0, 1, 2, 3), start_level=0,
                      strides=(2, 4))
    model['neck'].update(end_level=2, num_outs=3)
    with pytest.raises(InputError, match=(
            r'write out_indices=\(1, 2, 3\) and neck\.in_channels=\[16, 24, 40\], '
            r'neck\.end_level=1, neck\.num_outs=2$')):
        check_model(model)
    model['backbone']['out_indices'] = (1, 2, 3)
    model['neck'].update(in_channels=[16, 24, 40], end_level=1, num_outs=2)
    check_model(model)


def test_levels_that_a_neck_adds_stay_when_one_is_to_go():
    model = retinanet(channels=(40, 112, 320, 1280), out_indices=(3, 4, 5, 6), start_level=0)
    model['neck']['end_level'] = 3
    with pytest.raises(InputError, match=r'in_channels=\[40, 112, 320\], neck\.end_level=2$'):
        check_model(model)
    model['backbone']['out_indices'] = (3, 4, 5)
    model['neck'].update(in_channels=[40, 112, 320], end_level=2)
    check_model(model)


def test_a_number_of_levels_that_is_missing_is_left_to_the_neck_to_ask_for():
    model = retinanet(channels=(40, 112, 320), out_indices=(3, 4, 5), start_level=0)
    model['neck']['end_level'] = model['neck'].pop('num_outs') - 3
    model['bbox_head']['anchor_generator']['strides'] = [1]  # of no neck: nothing tells its levels
    assert check_model(model) is None
    model['neck']['in_channels'] = [40, 112, 1]
    with pytest.raises(InputError, match=r'in_channels=\[40, 112, 320\]'):
        check_model(model)


def segmentor(**head):
    return dict(type='EncoderDecoder', backbone=backbone(2, 3, 4, 5, output_stride=16),
                decode_head={**dict(type='DepthwiseSeparableASPPHead', in_channels=320,
                                    in_index=3, c1_in_channels=24), **head},
                auxiliary_head=[dict(type='FCNHead', in_channels=112, in_index=2)])


def test_segmentor_that_fits_passes_with_two_equal_strides():
    check_model(segmentor())
    with pytest.raises(InputError):
        check_model(segmentor(in_channels=321))


@pytest.mark.parametrize(('head', 'message'), [
    (dict(in_channels=2048),
     r'decode_head\.in_channels=2048: output 3 of \[24, 40, 112, 320\] .* write in_channels=320'),
    (dict(c1_in_channels=256), r'decode_head\.c1_in_channels=256: .* write c1_in_channels=24'),
    (dict(in_index=4), r'decode_head\.in_index=4: there are 4 outputs .* from 0 to 3'),
    (dict(in_index=[0, 2], in_channels=[24, 40]), r'write in_channels=\[24, 112\]'),
    (dict(feature_strides=[4]), r'feature_strides=\[4\]: .* write feature_strides=\[16\]'),
])
def test_head_that_does_not_fit_its_output_is_refused(head, message):
    with pytest.raises(InputError, match=message):
        check_model(segmentor(**head))


def test_index_order_of_a_head_is_kept():
    check_model(segmentor(in_index=[2, 0], in_channels=[112, 24]))
    with pytest.raises(InputError, match=r'write in_channels=\[112, 24\]'):
        check_model(segmentor(in_index=[2, 0], in_channels=[24, 112]))


def test_one_of_several_auxiliary_heads_is_named_by_its_place():
    model = segmentor()
    model['auxiliary_head'].append(dict(type='FCNHead', in_channels=24, in_index=1))
    with pytest.raises(InputError, match=r'model\.auxiliary_head\.1\.in_channels=24'):
        check_model(model)


def test_head_that_lists_channels_without_an_index_takes_every_output():
    model = dict(backbone=backbone(2, 3), panoptic_head=dict(in_channels=[24, 48]))
    with pytest.raises(InputError, match=r'panoptic_head\.in_channels=\[24, 48\].*\[24, 40\]'):
        check_model(model)


def test_classifier_of_another_width_is_refused():
    model = dict(backbone=backbone(-1, arch='b3'), neck=dict(type='GlobalAveragePooling'),
                 head=dict(type='LinearClsHead', in_channels=1280))
    with pytest.raises(InputError, match=r'head\.in_channels=1280: .*write in_channels=1536'):
        check_model(model)


def test_our_classifier_for_another_variant_is_refused():
    head = dict(type='EfficientNetHead', arch='b0', num_classes=5)
    neck = dict(type='GlobalAveragePooling')
    with pytest.raises(InputError, match=r"head\.arch='b0' takes 1280 channels, .* gives 1536: "
                                         "write arch='b3' there"):
        check_model(dict(backbone=backbone(-1, arch='b3'), neck=neck, head=head))
    check_model(dict(backbone=backbone(-1, arch='b3'), neck=neck, head={**head, 'arch': 'b3'}))
    check_model(dict(backbone=backbone(-1, arch='b3'), neck=neck,
                     head={**head, 'in_channels': 1536}))


def test_detector_inside_a_wrapper_is_found():
    with pytest.raises(InputError, match=r'model\.detector\.neck\.in_channels'):
        check_model(dict(type='SoftTeacher', detector=retinanet(channels=(1, 2, 3, 4))))


def test_neck_that_counts_from_the_coarsest_level_is_known():
    yolo = dict(backbone=backbone(3, 4, 5),
                neck=dict(type='YOLOV3Neck', in_channels=[320, 112, 40]))
    check_model(yolo)
    yolo['neck']['in_channels'] = [40, 112, 320]
    with pytest.raises(InputError, match=r'write in_channels=\[320, 112, 40\]'):
        check_model(yolo)


@pytest.mark.parametrize(('name', 'channels', 'fits'), [
    ('CLRFPN', [24, 40, 112], True), ('CLRFPN', [24, 48, 112], False),
    ('CLRFPN', [40, 112, 320], False), ('CLRFPN', [24, 40, 112, 320, 640], False),
    *((name, [24, 40, 112], False) for name in dict.fromkeys(PYRAMIDS + KEPT + OTHERS))])
def test_a_neck_that_is_not_known_may_take_the_first_outputs_alone(name, channels, fits):
    model = dict(backbone=backbone(2, 3, 4, 5), neck=dict(type=name, in_channels=channels))
    if fits:
        check_model(model)
        return
    with pytest.raises(InputError, match=r'write in_channels=\[24, 40, 112, 320\]'):
        check_model(model)


@pytest.mark.parametrize('model', [
    None, dict(type='ResNet'),
    dict(backbone=dict(type='EfficientNet', out_indices=(0, )), neck=dict(in_channels=[1])),
    dict(backbone=backbone(3, 4), neck=dict(type='MyOwnNeck'), bbox_head=dict(strides=[1])),
])
def test_what_is_not_known_is_left_alone(model):
    before = copy.deepcopy(model)
    check_model(model)
    assert model == before


def test_numbers_of_a_necks_output_reach_the_heads_of_a_segmentor():
    model = dict(backbone=backbone(2, 3, 4, 5),
                 neck=dict(type='FPN', in_channels=[24, 40, 112, 320], out_channels=64, num_outs=4),
                 decode_head=dict(type='FPNHead', in_channels=[64] * 4, in_index=[0, 1, 2, 3],
                                  feature_strides=[4, 8, 16, 32]))
    check_model(model)
    model['decode_head']['in_channels'] = [256] * 4
    with pytest.raises(InputError, match=r'write in_channels=\[64, 64, 64, 64\]'):
        check_model(model)
