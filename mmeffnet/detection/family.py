"""EfficientDet as data: one row a member, and the paper's rule beside it.

No PyTorch here. Source: Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection",
CVPR 2020, section 4.2 and table 1, and the reference code for what the table leaves open.
"""
from __future__ import annotations

from dataclasses import dataclass

from mmeffnet.arch import nearest
from mmeffnet.scaling import round_channels


@dataclass(frozen=True, kw_only=True)
class EfficientDetVariant:
    """One member of the family.

    arch: variant of the backbone. resolution: of the input, in pixels. channels: of BiFPN and
    heads. fpn_repeats: BiFPN layers. head_repeats: convolutions before each prediction.
    fusion: 'fast' (fast normalised) or 'sum'. levels: of the pyramid, from stride 8.
    anchor_scale: side of the smallest anchor in strides.
    """
    arch: str
    resolution: int
    channels: int
    fpn_repeats: int
    head_repeats: int
    fusion: str = 'fast'
    levels: int = 5
    anchor_scale: float = 4.0

    @property
    def strides(self) -> list[int]:
        """Pixels of the input per pixel of each level."""
        return [8 * 2**level for level in range(self.levels)]


# D6 and D7 add up without weights because training was unstable with them. D7 is D6 at a larger
# resolution with larger anchors, D7x has another backbone and one level more.
EFFICIENTDETS: dict[str, EfficientDetVariant] = {
    name: EfficientDetVariant(**row) for name, row in {
        'd0': dict(arch='b0', resolution=512, channels=64, fpn_repeats=3, head_repeats=3),
        'd1': dict(arch='b1', resolution=640, channels=88, fpn_repeats=4, head_repeats=3),
        'd2': dict(arch='b2', resolution=768, channels=112, fpn_repeats=5, head_repeats=3),
        'd3': dict(arch='b3', resolution=896, channels=160, fpn_repeats=6, head_repeats=4),
        'd4': dict(arch='b4', resolution=1024, channels=224, fpn_repeats=7, head_repeats=4),
        'd5': dict(arch='b5', resolution=1280, channels=288, fpn_repeats=7, head_repeats=4),
        'd6': dict(arch='b6', resolution=1280, channels=384, fpn_repeats=8, head_repeats=5,
                   fusion='sum'),
        'd7': dict(arch='b6', resolution=1536, channels=384, fpn_repeats=8, head_repeats=5,
                   fusion='sum', anchor_scale=5.0),
        'd7x': dict(arch='b7', resolution=1536, channels=384, fpn_repeats=8, head_repeats=5,
                    fusion='sum', levels=6),
    }.items()}


def get_efficientdet(name: str) -> EfficientDetVariant:
    """A member by its name; ValueError names the nearest."""
    if name not in EFFICIENTDETS:
        raise ValueError(f'arch={name!r} is no EfficientDet{nearest(name, EFFICIENTDETS)}')
    return EFFICIENTDETS[name]


def from_phi(phi: int) -> EfficientDetVariant:
    """The member that the paper's formula gives: width 64 * 1.35^phi, depths and resolution.

    phi: 0 to 6; the backbone is B<phi>. The published table departs from the formula: D2 has 112
    channels where this gives 120, and D4 224 for 216; D5 has seven BiFPN layers and 1280 px for
    eight and 1152; D6 has eight layers for nine, and adds up without weights.
    Raises ValueError for another phi.
    """
    if not isinstance(phi, int) or not 0 <= phi <= 6:
        raise ValueError(f'phi={phi!r} must be a whole number from 0 to 6')
    return EfficientDetVariant(
        arch=f'b{phi}', resolution=512 + 128 * phi,
        channels=round_channels(64 * 1.35 ** phi), fpn_repeats=3 + phi,
        head_repeats=3 + phi // 3)
