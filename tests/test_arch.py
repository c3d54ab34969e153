"""Architectures as data: reading, checking, printing, and working out the blocks."""
import dataclasses

import pytest
from mmengine.config import Config, ConfigDict
from peers import TINY

from mmeffnet import VARIANTS, Arch, Stage
from mmeffnet.arch import Block, nearest
from mmeffnet.variants import MBCONV

ROW = dict(block='mbconv', kernel=3, stride=2, expand=6, channels=24, repeats=2)


def stage(**changes):
    return Stage(**{**ROW, **changes})


def arch(**changes):
    return Arch(**{**dict(stem=32, head=1280, stages=[ROW]), **changes})


# Fields of a stage.

@pytest.mark.parametrize(('field', 'value', 'rule'), [
    ('block', 'bottleneck', r"one of \('mbconv', 'fused'\)"),
    ('kernel', 4, 'an odd number of pixels'), ('kernel', -3, 'an odd number of pixels'),
    ('kernel', '3', 'an odd number of pixels'),
    ('stride', -1, '1 or 2'), ('stride', 3, '1 or 2'), ('stride', True, '1 or 2'),
    ('expand', 0, 'a finite number of at least 1'),
    ('expand', 0.5, 'a finite number of at least 1'),
    ('expand', True, 'a finite number of at least 1'),
    ('expand', None, 'a finite number of at least 1'),
    ('expand', float('inf'), 'a finite number of at least 1'),
    ('channels', 0, 'a whole number above 0'), ('channels', 24.0, 'a whole number above 0'),
    ('repeats', -1, 'a whole number above 0'), ('repeats', 2.5, 'a whole number above 0'),
    ('se_ratio', 1.5, 'a number from 0 to 1'), ('se_ratio', -0.25, 'a number from 0 to 1'),
    ('se_ratio', True, 'a number from 0 to 1'),
    ('skip', 'no', 'True or False'), ('expand_from', 0, 'a whole number above 0')])
def test_wrong_field_is_refused_naming_stage_field_value_and_rule(field, value, rule):
    with pytest.raises(ValueError, match=f'^stage4: {field}={value!r} must be {rule}$'):
        stage(name='stage4', **{field: value})


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match='^stage: name=1 must be text$'):
        Arch.from_dict(dict(stem=8, head=8, stages={1: ROW}))


def test_wrong_field_in_a_config_is_refused_by_the_name_of_its_stage():
    with pytest.raises(ValueError, match='^narrow: stride=-2 must be 1 or 2$'):
        Arch.from_dict(dict(stem=8, head=8, stages=dict(wide=ROW, narrow={**ROW, 'stride': -2})))


@pytest.mark.parametrize('field', ROW)
def test_missing_field_is_refused_by_name(field):
    row = {key: value for key, value in ROW.items() if key != field}
    with pytest.raises(ValueError, match=f"^stage2: field '{field}' is missing; it needs .*kern"):
        arch(stages=[ROW, row])


def test_misspelt_field_of_a_stage_is_refused_naming_the_nearest():
    with pytest.raises(ValueError, match="^stage1: no field is called 'chanels'; did you mean 'ch"):
        arch(stages=[{**ROW, 'chanels': 3}])


def test_row_that_is_only_a_list_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r'^stage1: \[3, 2, 6\] must be a dict of named fields'):
        arch(stages=[[3, 2, 6]])


def test_stage_takes_no_positional_numbers():
    with pytest.raises(TypeError, match='positional argument'):
        Stage('mbconv', 3, 2, 6, 24, 2)


# Fields of an architecture.

@pytest.mark.parametrize(('field', 'value', 'rule'), [
    ('stem', 0, 'a whole number above 0'), ('head', '1280', 'a whole number above 0'),
    ('padding', 'valid', r"one of \('same', 'symmetric'\)"),
    ('activation', '', 'the name of a layer'), ('activation', None, 'the name of a layer'),
    ('scale_stem_head', 1, 'True or False')])
def test_wrong_field_of_an_architecture_is_refused(field, value, rule):
    with pytest.raises(ValueError, match=f'^arch: {field}={value!r} must be {rule}$'):
        arch(**{field: value})


def test_architecture_without_stages_is_refused():
    with pytest.raises(ValueError, match=r'^arch: stages=\(\) must be at least one stage$'):
        arch(stages=[])


def test_stages_that_are_no_collection_are_refused():
    with pytest.raises(ValueError, match='^arch: stages=7 must be a dict or a list of stages$'):
        arch(stages=7)


def test_misspelt_field_of_an_architecture_is_refused_naming_the_nearest():
    with pytest.raises(ValueError, match="^arch: no field is called 'stemm'; did you mean 'stem'"):
        Arch.from_dict(dict(stemm=32, head=1280, stages=[ROW]))


def test_missing_field_of_an_architecture_is_refused():
    with pytest.raises(ValueError, match="^arch: field 'head' is missing"):
        Arch.from_dict(dict(stem=32, stages=[ROW]))


def test_nothing_is_suggested_where_nothing_is_near():
    assert nearest('resnet', ['b0', 'lite4']) == ''


# Configs.

def test_named_stages_keep_their_names_and_their_order():
    read = Arch.from_dict(TINY)
    assert [row.name for row in read.stages] == list(TINY['stages'])


def test_listed_stages_are_named_by_their_position():
    assert [row.name for row in arch(stages=[ROW, ROW, ROW]).stages] == [
        'stage1', 'stage2', 'stage3']


def test_finished_stages_without_names_are_named_by_their_position_and_no_other():
    described = arch(stages=(stage(), stage(name='wide', channels=40), stage()))
    assert [row.name for row in described.stages] == ['stage1', 'wide', 'stage3']
    assert Arch.from_dict(described.to_dict()) == described
    # One more in between, and stages that are called what others have for none.
    grown = dataclasses.replace(described, stages=(stage(channels=32), *described.stages, stage()))
    assert [row.name for row in grown.stages] == [
        'stage2', 'stage1', 'wide', 'stage3', 'stage5']
    odd = arch(stages={'stage': ROW, 'stage1': ROW})
    assert dataclasses.replace(odd, stem=odd.stem) == odd


@pytest.mark.parametrize('second', [stage(name='x'), {**ROW, 'name': 'x'}])
def test_a_name_is_that_of_one_stage(second):
    with pytest.raises(ValueError, match="^arch: 2 stages have name='x', .* a name of its own, as "
                       'dataclasses.replace'):
        arch(stages=[stage(name='x'), ROW, second])


def test_dict_and_list_of_stages_mean_the_same():
    assert Arch.from_dict({**TINY, 'stages': list(TINY['stages'].values())}) == Arch.from_dict(TINY)


def test_config_of_mmengine_is_read_like_a_dict():
    config = Config(dict(arch=TINY)).arch
    assert isinstance(config, ConfigDict)
    assert Arch.from_dict(config) == Arch.from_dict(TINY)


def test_child_config_changes_one_field_of_one_stage(tmp_path):
    (tmp_path / 'base.py').write_text(f'arch = {TINY!r}\n')
    (tmp_path / 'child.py').write_text(
        "_base_ = 'base.py'\narch = dict(stages=dict(stage3=dict(kernel=7)))\n")
    read = Arch.from_dict(Config.fromfile(tmp_path / 'child.py').arch)
    assert [row.kernel for row in read.stages] == [3, 3, 7, 3, 5, 3]


def test_reading_changes_no_config():
    row = dict(ROW)
    arch(stages=[row])
    assert row == ROW


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_survives_a_round_trip_through_a_config(name):
    described = VARIANTS[name].arch
    assert Arch.from_dict(Config(described.to_dict())._cfg_dict.to_dict()) == described


def test_architecture_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'stem'"):
        MBCONV.stem = 16


# What follows from the rows.

def test_group_is_a_strided_stage_and_the_ones_after_it():
    groups = [[row.name for row in group] for group in MBCONV.groups]
    assert groups == [['stage1'], ['stage2'], ['stage3'], ['stage4', 'stage5'],
                      ['stage6', 'stage7']]


def test_first_stage_opens_a_group_at_either_stride():
    assert [len(arch(stages=[{**ROW, 'stride': s}, ROW]).groups) for s in (1, 2)] == [2, 2]


def test_outputs_of_b0_have_strides_2_to_32_and_the_head_too():
    assert MBCONV.out_strides == (2, 2, 4, 8, 16, 32, 32)


def test_outputs_of_b0_have_the_channels_of_each_groups_last_stage():
    assert MBCONV.out_channels == (32, 16, 24, 40, 112, 320, 1280)


def test_only_the_first_block_of_a_stage_is_strided_and_has_no_skip():
    blocks = stage(repeats=3).blocks(in_channels=16)
    assert [(b.stride, b.in_channels, b.skip) for b in blocks] == [
        (2, 16, False), (1, 24, True), (1, 24, True)]


def test_block_has_every_number_worked_out():
    (block, ) = stage(stride=1, repeats=1, se_ratio=0.25).blocks(in_channels=16)
    assert block == Block(kind='mbconv', kernel=3, stride=1, in_channels=16, hidden=96,
                          out_channels=24, squeeze=4, skip=False)


def numbers(blocks, *fields):
    return [tuple(getattr(block, field) for field in fields) for block in blocks]


def test_stage_that_is_not_strided_dilates_the_blocks_after_the_first():
    blocks = stage(repeats=3).blocks(in_channels=16, dilation=2, strided=False)
    assert numbers(blocks, 'stride', 'dilation') == [(1, 2), (1, 4), (1, 4)]


def test_block_that_lost_its_stride_gains_no_skip():
    # The weights were trained without it, also where the widths would allow it.
    (block, ) = stage(repeats=1, channels=16).blocks(in_channels=16, strided=False)
    assert (block.stride, block.skip) == (1, False)


def test_output_stride_8_of_b0_dilates_from_the_stage_that_had_stride_16():
    groups = MBCONV.blocks(output_stride=8)
    assert [set(numbers(group, 'stride')) for group in groups[3:]] == [{(1, )}, {(1, )}]
    assert [[d for d, in numbers(group, 'dilation')] for group in groups] == [
        [1], [1, 1], [1, 1], [1, 2, 2, 2, 2, 2], [2, 4, 4, 4, 4]]


def test_output_stride_32_of_b0_changes_nothing():
    assert MBCONV.blocks(output_stride=32) == MBCONV.blocks()


def test_output_stride_changes_stride_and_dilation_alone():
    fields = ('kind', 'kernel', 'in_channels', 'hidden', 'out_channels', 'squeeze', 'skip')
    for dilated, strided in zip(MBCONV.blocks(output_stride=8), MBCONV.blocks(), strict=True):
        assert numbers(dilated, *fields) == numbers(strided, *fields)


def test_squeeze_is_at_least_one_channel():
    (block, ) = stage(repeats=1, se_ratio=0.25).blocks(in_channels=3)
    assert block.squeeze == 1


def test_widths_inside_a_block_are_rounded_down():
    block, _ = stage(expand=2.3, se_ratio=0.3).blocks(in_channels=9)
    assert (block.hidden, block.squeeze) == (20, 2)  # of 20.7 and 2.7


def test_squeeze_may_be_as_wide_as_the_input():
    block, _ = stage(se_ratio=1).blocks(in_channels=16)
    assert block.squeeze == 16


def test_expand_from_counts_for_the_first_block_alone():
    blocks = stage(expand=4, expand_from=32).blocks(in_channels=40)
    assert [block.hidden for block in blocks] == [4 * 32, 4 * 24]


def test_stage_without_skip_has_none_in_any_block():
    assert not any(b.skip for b in stage(skip=False, stride=1).blocks(in_channels=24))


def test_printing_gives_the_table_of_stages():
    lines = str(MBCONV).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ['stage', 'block', 'kernel', 'stride', 'expand', 'channels', 'repeats', 'se'],
        ['stem', 'conv', '3', '2', '32', '1'],
        ['stage1', 'mbconv', '3', '1', '1', '16', '1', '0.25'],
        ['stage2', 'mbconv', '3', '2', '6', '24', '2', '0.25']]
    assert lines[-1] == 'SiLU, same padding'


def test_printed_table_has_a_line_for_each_stage_and_both_ends():
    # Header, stem, seven stages, head, footer.
    assert len(str(VARIANTS['b7'].arch).splitlines()) == 11
