"""The paper's costs of B0 to B7 beside those of the official code, ours and the formula's."""
from __future__ import annotations

from dataclasses import replace

from mmeffnet.analysis.complexity import complexity
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import MBCONV, VARIANTS

# Millions of parameters and billions of multiply-adds (there called FLOPS), as printed in table 2
# of Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019.
PAPER = {'b0': ('5.3', '0.39'), 'b1': ('7.8', '0.70'), 'b2': ('9.2', '1.0'), 'b3': ('12', '1.8'),
         'b4': ('19', '4.2'), 'b5': ('30', '9.9'), 'b6': ('43', '19'), 'b7': ('66', '37')}
# Parameters of the official code's networks; the model summaries of Keras, which carries them,
# add BatchNorm's running statistics and the seven numbers of its normalisation of the input.
OFFICIAL = {'b0': 5_288_548, 'b1': 7_794_184, 'b2': 9_109_994, 'b3': 12_233_232,
            'b4': 19_341_616, 'b5': 30_389_784, 'b6': 43_040_704, 'b7': 66_347_960}
HEADER = ('| arch | paper: M parameters | paper: G multiply-adds | official code: parameters '
          '| ours: parameters | ours: multiply-adds | ours / paper | formula: width, depth, px '
          '| published: width, depth, px | formula: multiply-adds / published |\n|'
          + '---|' * 10)
# Published depth of B1 without what rounding up does to stages of one block.
ONCE = dict(width=1.0, depth=1.1, resolution=240)


def row(index: int) -> str:
    """The line of B``index``."""
    name = f'b{index}'
    ours, formula = complexity(name), ModelScaling.from_phi(index)
    scaling, (_, products) = VARIANTS[name].scaling, PAPER[name]
    computed = complexity('b0', scaling=formula)
    cells = [name, *PAPER[name], f'{OFFICIAL[name]:,}', f'{ours.parameters:,}',
             f'{ours.multiply_adds:,}', f'{ours.multiply_adds / 1e9 / float(products) - 1:+.1%}',
             f'{formula.width:.3g}, {formula.depth:.3g}, {formula.resolution}',
             f'{scaling.width:g}, {scaling.depth:g}, {scaling.resolution}',
             f'{computed.multiply_adds / ours.multiply_adds:.2f}']
    return f'| {" | ".join(cells)} |'


def table() -> str:
    """The table with the arithmetic of its explanations, as docs/scaling.md has it."""
    return '\n'.join([HEADER, *(row(index) for index in range(8)), '', *explanations()])


def explanations() -> list[str]:
    """What the differences come from, each with the figures that show it."""
    b1 = complexity('b1')
    ends = complexity('b0', scaling=ModelScaling(**ONCE, scale_stem_head=False))
    bare = complexity(_nearest_repeats(1.1), 240)
    nearest = [max(8, int(s.channels * 1.2 / 8 + 0.5) * 8) for s in MBCONV.stages]
    return [
        f'- B1: depth 1.1 rounded up makes every stage a block deeper ({_repeats("b1")} from '
        f'{_repeats("b0")}). With the first and the last stage left at one block it would have '
        f'{ends.parameters:,} parameters and {ends.multiply_adds:,} multiply-adds, with repeats '
        f'rounded to the nearest {bare.parameters:,} and {bare.multiply_adds:,}; the paper '
        f'prints {PAPER["b1"][0]} M and {PAPER["b1"][1]} G, and the code has '
        f'{b1.parameters:,}.',
        f'- Widths are multiples of 8 that keep 0.9: B3 has '
        f'{" ".join(str(s.channels) for s in VARIANTS["b3"].arch.stages)}, plain rounding of 1.2 '
        f'times B0 would give {" ".join(map(str, nearest))}.',
        f'- The paper prints two or three digits, and ours are {_gap(min):+.1%} to '
        f'{_gap(max):+.1%} of that. Maps whose sides were not rounded up would make '
        f'{_even("b4") / 1e9:.2f} G of B4 and {_even("b5") / 1e9:.2f} G of B5, where the paper has '
        f'{PAPER["b4"][1]} and {PAPER["b5"][1]}: rounding is part of it, and how the '
        'paper counted is not said. The closed form agrees with MMEngine and fvcore to the last '
        'digit.',
        '- The published coefficients are a table and not 1.2, 1.1 and 1.15 to the power phi: see '
        'the last columns.']


def _nearest_repeats(depth: float):
    """B0's table with repeats rounded to the nearest whole number."""
    return replace(MBCONV, stages=tuple(
        replace(s, repeats=round(s.repeats * depth)) for s in MBCONV.stages))


def _gap(pick) -> float:
    return pick(complexity(name).multiply_adds / 1e9 / float(products) - 1
                for name, (_, products) in PAPER.items())


def _even(name: str) -> float:
    """Multiply-adds if the maps had r / stride pixels a side, and not the next whole number."""
    side = VARIANTS[name].resolution
    whole = -(-side // 32) * 32
    return complexity(name, whole).multiply_adds * (side / whole) ** 2


def _repeats(name: str) -> str:
    return ' '.join(str(stage.repeats) for stage in VARIANTS[name].arch.stages)

