"""EfficientDet as data: the published table beside the formula, without PyTorch or mmdet."""
import pytest

from mmeffnet.detection.family import from_phi, get_efficientdet


@pytest.mark.parametrize('phi', range(7))
def test_the_table_departs_from_the_formula_where_it_is_said(phi):
    row, formula = get_efficientdet(f'd{phi}'), from_phi(phi)
    different = {field: getattr(row, field) for field in ('channels', 'fpn_repeats', 'resolution',
                                                          'head_repeats', 'arch', 'fusion')
                 if getattr(row, field) != getattr(formula, field)}
    assert different == {2: dict(channels=112), 4: dict(channels=224),
                         5: dict(fpn_repeats=7, resolution=1280),
                         6: dict(fpn_repeats=8, fusion='sum')}.get(phi, {})


@pytest.mark.parametrize('phi', [-1, 7, 1.5])
def test_the_formula_ends_with_the_backbones_of_the_paper(phi):
    with pytest.raises(ValueError, match='must be a whole number from 0 to 6'):
        from_phi(phi)


def test_levels_halve_from_stride_8():
    assert get_efficientdet('d7x').strides == [8, 16, 32, 64, 128, 256]


def test_an_unknown_member_names_the_nearest():
    with pytest.raises(ValueError, match="arch='d9' is no EfficientDet"):
        get_efficientdet('d9')
