"""Weights of any library as a clean file of ours, and ours as one of another library."""
import hashlib
import io
import json
import logging
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.logging import print_log

from mmeffnet.engine.completeness import refuse_parts
from mmeffnet.engine.judges import differences
from mmeffnet.errors import InputError, one_line_errors
from mmeffnet.files import whole
from mmeffnet.variants import VARIANTS
from mmeffnet.weights import Weights, load_weights
from mmeffnet.weights.files import need, stem_of
from mmeffnet.weights.fit import unsaid
from mmeffnet.weights.sources import described, read_state
from mmeffnet.weights.trained import other_parts
from mmeffnet.weights.translate import TIMM_EPS, numerics_of, to_layout
from mmeffnet.weights.values import few, warn_of_values

# mmpretrain's own EfficientNet has our keys.
TARGETS = {'mmeffnet': 'mmeffnet', 'mmpretrain': 'mmeffnet', 'timm': 'timm',
           'torchvision': 'torchvision'}
B0_TO_B7 = tuple(f'b{number}' for number in range(8))
# The published variants that a library builds with all their tensors; ours builds any network.
BUILT = {'mmpretrain': (*B0_TO_B7, 'b8', 'l2', 'es', 'em'), 'timm': tuple(VARIANTS),
         'torchvision': B0_TO_B7}
SUFFIXES = ('.pth', '.safetensors')


def parser() -> ArgumentParser:
    """Arguments of tools/convert.py."""
    result = ArgumentParser(
        description='Write weights of any library as a clean file of tensors only, with a part '
        'of its SHA-256 in the name.')
    result.add_argument('source', metavar='SRC', help='a file of PyTorch, safetensors, Keras or '
                        'TensorFlow, an address such as timm://NAME, or a name of the catalog')
    result.add_argument('target', metavar='DST',
                        help='the file to write (.pth or .safetensors), or a folder for it')
    result.add_argument('--to', choices=[*TARGETS], default='mmeffnet', dest='to',
                        help='the library whose keys are written; mmeffnet by default')
    result.add_argument('--check', action='store_true',
                        help="compare the outputs with those of the source library's network, "
                        'and those of the library that is written for')
    result.add_argument('--padding', choices=[*TIMM_EPS],
                        help='what the weights were trained with, where the file does not tell: '
                        'same, with a BatchNorm eps of 1e-3, or symmetric, with 1e-5')
    result.add_argument('--prefix', metavar='KEYS',
                        help='of a file with several networks, what the keys of the one that is '
                        'meant begin with, such as ema_model.')
    result.add_argument('--raw', action='store_true',
                        help='of a TensorFlow checkpoint, the weights that are not averaged')
    return result


def main(argv=None) -> None:
    """tools/convert.py. Exits with 2 and one line where the input is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        path = convert(args)
        if args.check:
            _check(args, path)


def convert(args: Namespace) -> Path:
    """Write the file and give its path. Nothing is left behind where that fails."""
    target = _target(args.target, args.source)
    weights = _source(args)
    others = [key for key in weights.others if not key.startswith('data_preprocessor.')]
    if others:
        print_log(f'{args.source}: {len(others)} tensors beside the network are left out: '
                  f'{few(others)}', 'current')
    warn_of_values(weights.state, args.source)
    if unsaid(weights):
        print_log(f'{args.source} {unsaid(weights)}: give --padding, and the file that is written '
                  'says it; --check agrees with either', 'current', level=logging.WARNING)
    _refuse_unbuilt(weights, args.to)
    own = refuse_parts(weights)
    if own and TARGETS[args.to] != 'mmeffnet':
        raise InputError(f'{args.source!r} differs from {weights.variant} by {len(own)} tensors of '
                         f'normalisation or activation: {few(own)}: no network of {args.to} has '
                         'these: only --to mmeffnet is possible')
    _refuse_other_numerics(weights, args.to)
    state = to_layout(weights.state, weights.arch, TARGETS[args.to])
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    path = write(state, target, described(weights) if TARGETS[args.to] == 'mmeffnet' else None)
    classes = f'{weights.classes} classes' if weights.classes else 'no classifier'
    print(f'{weights.variant or "custom"} network, {weights.layout} layout, {classes}, '
          f'{len(state)} tensors -> {path} ({path.stat().st_size / 2 ** 20:.1f} MiB)')
    return path


def _source(args: Namespace) -> Weights:
    """The weights, with the padding of --padding where nothing else tells it."""
    weights = load_weights(args.source, prefix=args.prefix, average=not args.raw)
    if args.padding is None or weights.padding == args.padding:
        return weights
    if weights.padding:
        raise InputError(f'--padding {args.padding}: {args.source!r} was trained with padding '
                         f'{weights.padding}, which its file, its set or its library states: '
                         'leave the option out')
    return replace(weights, stated={'eps': TIMM_EPS[args.padding], **weights.stated,
                                    'padding': args.padding})


def _refuse_unbuilt(weights: Weights, library: str) -> None:
    """Refuse a library that has no network for these weights."""
    if weights.variant in BUILT.get(library, (weights.variant, )):
        return
    able = [name for name in TARGETS if weights.variant in BUILT.get(name, (weights.variant, ))]
    raise InputError(f'{weights.source!r} is of {weights.variant or "a custom network"}, and no '
                     f'network of {library} has its tensors (it builds '
                     f'{", ".join(BUILT[library])}): choose --to {" or ".join(able)}')


def _refuse_other_numerics(weights: Weights, library: str) -> None:
    """Refuse a library whose network would compute something else with these weights."""
    parts = other_parts(weights)
    if parts and TARGETS[library] != 'mmeffnet':
        raise InputError(f'{weights.source!r}: its training had {" and ".join(parts)}, which no '
                         f'network of {library} has: choose --to mmeffnet, and load it by its '
                         'own config')
    target = numerics_of(library, weights.variant)
    if library == 'timm':  # has networks of either padding
        target = weights.padding, TIMM_EPS.get(weights.padding)
    if target[0] and not weights.padding:
        raise InputError(f'{weights.source!r} does not tell what padding it was trained with, and '
                         f'the network of {library} has padding {target[0]} and BatchNorm eps '
                         f'{target[1]}: give --padding same or --padding symmetric')
    pairs = [(name, own, its) for name, own, its in zip(
        ('padding', 'BatchNorm eps'), (weights.padding, weights.eps), target) if own and its]
    if any(own != its for _, own, its in pairs):
        own, its = (' and '.join(f'{pair[0]} {pair[side]}' for pair in pairs) for side in (1, 2))
        raise InputError(f'{weights.source!r} has {own}, and the network of {library} {its}: its '
                         'outputs would be others: choose --to mmeffnet, which keeps both')


def write(state: dict[str, torch.Tensor], target: Path, meta: dict | None) -> Path:
    """Write tensors, whole or not at all, as NAME-HASH.SUFFIX; gives that path."""
    content = _encoded(state, target.suffix, meta)
    digest = hashlib.sha256(content).hexdigest()[:8]
    path = target.with_name(f'{target.stem}-{digest}{target.suffix}')
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise InputError(f'{str(target)!r} could not be written: {error.strerror}') from error
    return path


def _encoded(state: dict[str, torch.Tensor], suffix: str, meta: dict | None) -> bytes:
    """The bytes of the file.

    Neither library writes it itself: for a full disk each has an error of its own, and
    safetensors makes files that nobody else may read.
    """
    if suffix == '.safetensors':
        return need('safetensors.torch', 'timm').save(
            state, {key: json.dumps(value) for key, value in (meta or {}).items()})
    content = io.BytesIO()
    torch.save(state if meta is None else dict(state_dict=state, meta=meta), content)
    return content.getvalue()


def _target(target: str, source: str) -> Path:
    """The file to write, before its hash is in the name."""
    path = Path(target)
    if path.is_dir():
        return path / f'{stem_of(source) or "weights"}.pth'
    if path.suffix not in SUFFIXES:
        raise InputError(f'DST {target!r} must end in {" or ".join(SUFFIXES)}, or be a folder')
    if not path.parent.is_dir():
        raise InputError(f'DST {target!r}: the folder {str(path.parent)!r} does not exist')
    return path


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: of two numbers that are none, no comparison says that they agree."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _check(args: Namespace, path: Path) -> None:
    """Print how far the written file's outputs are from the source library's."""
    source = _source(args)
    written = load_weights(path)
    unequal = [key for key, tensor in source.state.items()
               if not torch.equal(_bits(written.state[key]), _bits(tensor))]
    if unequal or written.state.keys() != source.state.keys():
        raise InputError(f'{str(path)!r} differs from {args.source!r}: {few(unequal)}')
    print(f'{len(source.state)} tensors are equal bit for bit')
    for line in differences(source, written, args.to, read_state(path)[0]):
        print(line)
