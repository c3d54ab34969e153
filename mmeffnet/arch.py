"""An architecture as data: the stem, the stages and the head, before any tensor.

This module imports the standard library only.
"""
from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import chain, count
from typing import Any

BLOCKS = ('mbconv', 'fused')
PADDINGS = ('same', 'symmetric')


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block with every number worked out; what the network is built from.

    ``squeeze`` is the width inside squeeze-and-excitation, 0 for none.
    ``skip`` says whether the input is added to the output.
    ``dilation`` is the distance between the taps of the kernel, in pixels.
    """
    kind: str
    kernel: int
    stride: int
    in_channels: int
    hidden: int
    out_channels: int
    squeeze: int
    skip: bool
    dilation: int = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the architecture table: ``repeats`` blocks of one width.

    name: for messages and configs; an architecture names a stage that has none, by its place where
        no other stage has that name.
    block: 'mbconv' (expand, depthwise, project) or 'fused' (full convolution, project).
    kernel: odd, in pixels. stride: of the first block, 1 or 2.
    expand: hidden channels per input channel, >= 1. channels: output channels.
    se_ratio: squeeze width as a share of the block's *input* channels, 0 for no SE.
    skip: whether blocks that keep their shape add their input.
    expand_from: channels that the first block's expansion is counted from, in place
        of its input (EdgeTPU's first stage).

    Raises ValueError naming the stage, the field, the value and the rule.
    """
    name: str | None = None
    block: str
    kernel: int
    stride: int
    expand: float
    channels: int
    repeats: int
    se_ratio: float = 0.0
    skip: bool = True
    expand_from: int | None = None

    def __post_init__(self):
        _check(None, 'name', self.name, self.name is None or isinstance(self.name, str), 'text')
        _check(self.name, 'block', self.block, self.block in BLOCKS, f'one of {BLOCKS}')
        _check(self.name, 'kernel', self.kernel,
               _is_count(self.kernel) and self.kernel % 2 == 1, 'an odd number of pixels')
        _check(self.name, 'stride', self.stride,
               _is_count(self.stride) and self.stride <= 2, '1 or 2')
        _check(self.name, 'expand', self.expand, _is_number(self.expand)
               and 1 <= self.expand < float('inf'), 'a finite number of at least 1')
        _check_count(self.name, 'channels', self.channels)
        _check_count(self.name, 'repeats', self.repeats)
        _check(self.name, 'se_ratio', self.se_ratio,
               _is_number(self.se_ratio) and 0 <= self.se_ratio <= 1, 'a number from 0 to 1')
        _check(self.name, 'skip', self.skip, isinstance(self.skip, bool), 'True or False')
        if self.expand_from is not None:
            _check_count(self.name, 'expand_from', self.expand_from)

    def blocks(self, in_channels: int, dilation: int = 1,
               strided: bool = True) -> Iterator[Block]:
        """Work out the numbers of each block, given the channels that enter the stage.

        dilation: what the stages before have grown to. strided: False trades the stride of
        the first block for dilation of those after it, which then see the same pixels.
        """
        later = dilation if strided else dilation * self.stride
        for index in range(self.repeats):
            stride = self.stride if index == 0 else 1
            source = self.expand_from if index == 0 and self.expand_from else in_channels
            yield Block(
                kind=self.block, kernel=self.kernel, in_channels=in_channels,
                stride=stride if strided else 1, dilation=later if index else dilation,
                hidden=int(source * self.expand), out_channels=self.channels,
                # No rounding to 8: in B0 the first block of stage 2 squeezes 96 to 4.
                squeeze=max(1, int(in_channels * self.se_ratio)) if self.se_ratio else 0,
                # By the stride that the weights were trained with.
                skip=self.skip and stride == 1 and in_channels == self.channels)
            in_channels = self.channels


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A whole network: 3x3 stride-2 stem, stages, 1x1 head convolution.

    stem, head: their output channels. activation: name of a registered activation layer.
    padding: 'same' (TensorFlow's, lopsided where it must be) or 'symmetric' (PyTorch's).
    scale_stem_head: False keeps stem, head and the repeats of the first and the last
        stage as they are when the network is scaled (the Lite family).

    Raises ValueError naming the part, the field, the value and the rule.
    """
    stem: int
    stages: tuple[Stage, ...]
    head: int
    activation: str = 'SiLU'
    padding: str = 'same'
    scale_stem_head: bool = True

    def __post_init__(self):
        _check_count('arch', 'stem', self.stem)
        _check_count('arch', 'head', self.head)
        object.__setattr__(self, 'stages', _named_stages(self.stages))
        _check('arch', 'stages', self.stages, len(self.stages) > 0, 'at least one stage')
        _check('arch', 'activation', self.activation,
               isinstance(self.activation, str) and self.activation, 'the name of a layer')
        _check('arch', 'padding', self.padding, self.padding in PADDINGS, f'one of {PADDINGS}')
        _check('arch', 'scale_stem_head', self.scale_stem_head,
               isinstance(self.scale_stem_head, bool), 'True or False')

    @classmethod
    def from_dict(cls, cfg: Mapping[str, Any]) -> Arch:
        """Read an architecture from a config.

        ``stages`` is a dict of stages by name, so that a child config can change one
        field of one stage, or a list of stages, named stage1, stage2, ...
        Raises ValueError for a key that is missing or that no field has, and for a name that two
        stages have.
        """
        _check_keys(cls, 'arch', cfg)
        return cls(**cfg)

    def to_dict(self) -> dict[str, Any]:
        """The config that ``from_dict`` reads back to an equal architecture."""
        cfg = asdict(self)
        cfg['stages'] = {stage.pop('name'): stage for stage in cfg['stages']}
        return cfg

    @property
    def groups(self) -> tuple[tuple[Stage, ...], ...]:
        """Stages by resolution: a stride-2 stage and the stride-1 stages after it."""
        groups: list[tuple[Stage, ...]] = []
        for stage in self.stages:
            # The first stage opens a group even at stride 1: the stem stands alone.
            if stage.stride == 2 or not groups:
                groups.append(())
            groups[-1] += (stage, )
        return tuple(groups)

    def blocks(self, output_stride: int | None = None) -> list[list[Block]]:
        """The blocks of each group, in order, with every number worked out.

        output_stride: the stride that no output exceeds, one of ``out_strides``; a stage that
        would exceed it is dilated in place of strided. None trades nothing. Groups and weights
        are the same either way. Raises ValueError for any other stride.
        """
        _check('arch', 'output_stride', output_stride,
               output_stride is None or output_stride in self.out_strides,
               f'None or one of the strides {sorted(set(self.out_strides))}')
        channels, stride, dilation, result = self.stem, 2, 1, []
        for group in self.groups:
            result.append([])
            for stage in group:
                strided = output_stride is None or stride * stage.stride <= output_stride
                result[-1] += stage.blocks(channels, dilation, strided)
                channels = stage.channels
                stride *= stage.stride if strided else 1
                dilation *= 1 if strided else stage.stride
        return result

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output: the stem, each group, the head convolution."""
        return (self.stem, *(group[-1].channels for group in self.groups), self.head)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Pixels of the input per pixel of each output, in the order of ``out_channels``."""
        strides = [2]
        for group in self.groups:
            strides.append(strides[-1] * group[0].stride)
        return (*strides, strides[-1])

    def __str__(self) -> str:
        """The stage table, one line a stage."""
        rows = [('stage', 'block', 'kernel', 'stride', 'expand', 'channels', 'repeats', 'se')]
        rows.append(('stem', 'conv', 3, 2, '', self.stem, 1, ''))
        for stage in self.stages:
            rows.append((stage.name, stage.block, stage.kernel, stage.stride,
                         f'{stage.expand:g}', stage.channels, stage.repeats,
                         f'{stage.se_ratio:g}' if stage.se_ratio else ''))
        rows.append(('head', 'conv', 1, 1, '', self.head, 1, ''))
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        lines = ['  '.join(str(cell).ljust(width) if i < 2 else str(cell).rjust(width)
                           for i, (cell, width) in enumerate(zip(row, widths)))
                 for row in rows]
        footer = f'{self.activation}, {self.padding} padding'
        return '\n'.join(line.rstrip() for line in (*lines, footer))


def nearest(word: str, known) -> str:
    """The ending '; did you mean ...?' for a misspelt word, empty when none is near."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f'; did you mean {names[close[0]]!r}?' if close else ''


def _named_stages(stages) -> tuple[Stage, ...]:
    """Stages from a mapping of names, a sequence of mappings, or finished stages."""
    if isinstance(stages, Mapping):
        rows = [(name, row) for name, row in stages.items()]
    elif isinstance(stages, (list, tuple)):
        rows = [(f'stage{i}', row) for i, row in enumerate(stages, start=1)]
    else:
        raise ValueError(f'arch: stages={stages!r} must be a dict or a list of stages')
    finished = [row if isinstance(row, Stage) else _stage(name, row) for name, row in rows]
    names = [stage.name for stage in finished if stage.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'arch: {names.count(name)} stages have name={name!r}, which must be '
                             'one stage alone; give each a name of its own, as '
                             'dataclasses.replace(stage, name=...) does')
    for index, (place, _) in enumerate(rows):
        if finished[index].name is None:
            wanted = chain([place], (f'stage{i}' for i in count(index + 1)))
            names.append(next(name for name in wanted if name not in names))
            finished[index] = replace(finished[index], name=names[-1])
    return tuple(finished)


def _stage(name: str, row) -> Stage:
    if not isinstance(row, Mapping):
        raise ValueError(f'{name}: {row!r} must be a dict of named fields, such as '
                         f"dict(block='mbconv', kernel=3, ...)")
    row = {'name': name, **row}
    _check_keys(Stage, row['name'], row)
    return Stage(**row)


def _check_keys(cls, owner: str, cfg: Mapping[str, Any]) -> None:
    known = {f.name: f for f in fields(cls)}
    for key in cfg:
        if key not in known:
            raise ValueError(f'{owner}: no field is called {key!r}{nearest(key, known)}')
    no_default = [name for name, f in known.items() if _has_no_default(f)]
    for name in no_default:
        if name not in cfg:
            raise ValueError(f'{owner}: field {name!r} is missing; it needs {no_default}')


def _has_no_default(field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_count(owner: str | None, field: str, value) -> None:
    _check(owner, field, value, _is_count(value), 'a whole number above 0')


def _check(owner: str | None, field: str, value, holds, rule: str) -> None:
    if not holds:
        raise ValueError(f'{owner or "stage"}: {field}={value!r} must be {rule}')
