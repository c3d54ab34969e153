"""From any library's keys to ours and back: the layout is recognised from the keys."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from mmeffnet.arch import Arch
from mmeffnet.errors import InputError
from mmeffnet.variants import VARIANTS, Norm
from mmeffnet.weights.layouts import (
    BACKBONE,
    CLASSIFIER,
    LAYOUTS,
    OURS,
    Layout,
    module_names,
    recognise,
)
from mmeffnet.weights.settings import BATCH_NORM_EPS, PYTORCH_EPS
from mmeffnet.weights.unrecognised import first_difference, lost_stem
from mmeffnet.weights.values import COUNTERS, check_kinds, few, size_of

if TYPE_CHECKING:
    from mmeffnet.weights.catalog import Entry


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one network, under our keys.

    state: tensors; 'backbone.layers...' and, with a classifier, 'head.fc.weight' and '.bias'.
    others: what lies beside the network under its own keys, such as a detector's neck.
    root: of our layout, what the file's keys have before 'backbone.', as of a model inside another;
    mostly nothing.
    layout: name of the layout they were found in. source: where they come from, for messages.
    variant, arch: None where the shapes are of no published network.
    norm: what the file itself or its set says that its input has to be; None where neither does,
    and for a network of BGR input.
    stated: what the file itself says, see :func:`mmeffnet.weights.files.statements`.
    entry: the published set that this is, None where it is not known to be one.
    """
    state: dict[str, torch.Tensor]
    layout: str
    source: str
    variant: str | None = None
    arch: Arch | None = None
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    root: str = ''
    norm: Norm | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    entry: Entry | None = None

    @property
    def classes(self) -> int | None:
        """Outputs of the classifier, None without one."""
        weight = self.state.get(f'{CLASSIFIER}.weight')
        return None if weight is None else len(weight)

    @property
    def padding(self) -> str | None:
        """'same' or 'symmetric', None where neither keys nor catalog tell."""
        if self.entry:
            return self.entry.padding
        return self.stated.get('padding') or numerics_of(self.layout, self.variant)[0]

    @property
    def eps(self) -> float | None:
        """BatchNorm's epsilon, None where neither keys nor catalog tell."""
        if self.entry:
            return self.entry.eps
        return self.stated.get('eps') or numerics_of(self.layout, self.variant)[1]


# BatchNorm's epsilon of timm's networks, of a padding each.
TIMM_EPS = {'same': BATCH_NORM_EPS, 'symmetric': PYTORCH_EPS}
TIMM_NAME = r'(?:.*[/:])?(tf_)?efficientnet_(blur_|b\d|e[sml]|l2|lite\d)\w*(?:\..*)?'


def numerics_of(library: str, variant: str | None) -> tuple[str | None, float | None]:
    """Padding and BatchNorm's epsilon of a library's network, None where it has either."""
    if library == 'torchvision':
        return 'symmetric', BATCH_NORM_EPS if variant in ('b5', 'b6', 'b7') else PYTORCH_EPS
    # timm's tf_ and its own networks have equal keys; ours may be trained either way.
    return ('same', BATCH_NORM_EPS) if library in ('lukemelas', 'mmpretrain') else (None, None)


def of_timm(name: str, source: str) -> dict:
    """'padding' and 'eps' of timm's network of a name; empty for what is no such name.

    InputError for those with other layers, which have the same tensors.
    """
    found = re.fullmatch(TIMM_NAME, name)
    if found is None:
        return {}
    if found[2] == 'blur_':
        raise InputError(f'{source!r} is of timm\'s {name}, which blurs where it strides: its '
                         'tensors are those of a network that does not, and no network here does')
    padding = 'same' if found[1] else 'symmetric'
    return dict(padding=padding, eps=TIMM_EPS[padding])


def plain_key(key: str) -> str:
    """A key without what torch.compile puts into those of a part of a model."""
    return re.sub(r'(?<![^.])_orig_mod\.', '', key)


def find_networks(keys) -> list[tuple[Layout, str]]:
    """The layout and the prefix ('', 'backbone.', ...) of each network among the keys."""
    found = []
    for layout in LAYOUTS.values():
        stem = f'{layout.stem[0]}.weight'
        prefixes = (key.removesuffix(stem) for key in keys if key.endswith(stem))
        found += [(layout, prefix) for prefix in prefixes if not prefix or prefix[-1] == '.']
    return found


def translate(state: Mapping[str, torch.Tensor], source: str, *, prefix: str | None = None,
              also: Arch | None = None, entry: Entry | None = None) -> Weights:
    """A state dict of any layout, under our keys.

    prefix: of the network among the keys, where there are several. also: an architecture to
    look for besides the published ones.
    Raises InputError where there is no network, several, or one of unknown shapes in a
    layout that is not ours; for keys beside the network; and for tensors of it that are no dense
    floating-point numbers.
    """
    layout, prefix = _only_network(state, source, prefix)
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items()
              if key.startswith(prefix)}
    variant, arch = recognise({k: tuple(v.shape) for k, v in inside.items()}, layout, also)
    weights = Weights(state={}, layout=layout.name, source=source, variant=variant, arch=arch,
                      entry=entry)
    if layout is OURS:
        weights = _ours(weights, state, prefix)
    elif arch is None:
        _refuse_shapes(inside, layout, source, prefix)
    else:
        weights = _foreign(weights, state, inside, prefix, layout)
    check_kinds({k: v for k, v in state.items() if k not in weights.others}, source)
    return weights


def _only_network(state, source: str, prefix: str | None) -> tuple[Layout, str]:
    found = find_networks(state)
    if prefix is not None:
        prefix = f'{prefix.rstrip(".")}.' if prefix else ''
        # Of a foreign layout the whole file is the backbone's: its keys have no such prefix.
        chosen = [(layout, p) for layout, p in found if p == prefix] or [
            (layout, p) for layout, p in found if p == f'{prefix}{BACKBONE}'] or [
            (layout, p) for layout, p in found if layout is not OURS and len(found) == 1]
    else:
        chosen = found
    if len(chosen) == 1:
        return chosen[0]
    places = ', '.join(repr(p) for _, p in found)
    lost = lost_stem(state) if not found else None
    if lost:
        raise InputError(f'{source!r} has the keys of {lost[0].writers} and lacks {lost[1]}, the '
                         'stem that every EfficientNet begins with: save all of its tensors')
    if not found:
        raise InputError(f'{source!r} holds no EfficientNet of a known layout '
                         f'({", ".join(LAYOUTS)}): its keys are {few(list(state))}')
    if prefix is not None:
        raise InputError(f'{source!r} holds nothing with prefix={prefix!r}: its networks have '
                         f'the prefixes {places}')
    raise InputError(f'{source!r} holds several networks, with the prefixes {places}: choose '
                     'one by prefix=, or by tools/convert.py --prefix, which makes a file of it')


def _refuse_shapes(inside, layout: Layout, source: str, prefix: str) -> None:
    different = first_difference({k: tuple(v.shape) for k, v in inside.items()}, layout)
    nearest = ''
    if different:
        name, key, shape = different
        found = size_of(inside[key].shape) if key in inside else 'missing'
        nearest = (f'; {name} is the nearest, and {prefix}{key} is {found} and has to be '
                   f'{size_of(shape)}')
    raise InputError(
        f'{source!r} has the keys of {layout.writers} and the shapes of none of the '
        f'networks {", ".join(VARIANTS)} (EfficientNetV2, CondConv and pruned networks '
        f'are others){nearest}')


def _ours(weights: Weights, state, prefix: str) -> Weights:
    """Our own keys: the network, and the classifier beside it in a whole model."""
    root = prefix.removesuffix(BACKBONE)
    found, others = {}, {}
    for key, tensor in state.items():
        inner = key.removeprefix(prefix)
        if key.startswith(f'{prefix}layers.'):
            found[f'{BACKBONE}{inner}'] = tensor
        elif prefix.endswith(BACKBONE) and key.startswith(f'{root}{CLASSIFIER}.'):
            found[key.removeprefix(root)] = tensor
        elif not key.endswith(COUNTERS):
            others[key] = tensor
    return replace(weights, state=found, others=others,
                   root=root if prefix.endswith(BACKBONE) else '')


def _foreign(weights: Weights, state, inside, prefix: str, layout: Layout) -> Weights:
    names = {theirs: f'{BACKBONE}{ours}' for ours, theirs
             in module_names(weights.arch, layout).items()}
    names[layout.classifier] = CLASSIFIER
    found, unknown = {}, []
    for key, tensor in inside.items():
        module, _, name = key.rpartition('.')
        if module in names:
            found[f'{names[module]}.{name}'] = tensor
        elif not key.endswith(COUNTERS):
            unknown.append(f'{prefix}{key}')
    if unknown:
        raise InputError(f'{weights.source!r} is of variant {weights.variant!r} in the layout of '
                         f'{layout.writers}, and {len(unknown)} of its tensors belong to no such '
                         f'network: {few(unknown)}')
    # mmpretrain's TIMMBackbone has a network of timm inside, and the classifier beside it.
    root, in_backbone, _ = prefix.rpartition(BACKBONE)
    beside = f'{root}{CLASSIFIER}.' if in_backbone else None
    outside = {}
    for key, tensor in state.items():
        if beside and key.startswith(beside):
            found.setdefault(key.removeprefix(root), tensor)
        elif not key.startswith(prefix) and not key.endswith(COUNTERS):
            outside[key] = tensor
    return replace(weights, state=found, others=outside)


def to_layout(state: Mapping[str, torch.Tensor], arch: Arch, layout: str
              ) -> dict[str, torch.Tensor]:
    """Weights under our keys ('backbone.layers...', 'head.fc...'), under another library's.

    layout: 'mmeffnet' (mmpretrain's own too), 'timm', 'torchvision' or 'lukemelas'.
    Raises InputError where the layout has no such network.
    """
    table = LAYOUTS[layout]
    if table is OURS:
        return dict(state)
    try:
        names = {f'{BACKBONE}{ours}': theirs for ours, theirs
                 in module_names(arch, table).items()}
    except ValueError as error:
        raise InputError(f'{error}: choose timm or mmeffnet') from error
    names[CLASSIFIER] = table.classifier
    split = ((*key.rpartition('.'), tensor) for key, tensor in state.items())
    return {f'{names[module]}.{name}': tensor for module, _, name, tensor in split}
