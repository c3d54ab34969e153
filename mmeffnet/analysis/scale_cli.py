"""The command line of tools/scale.py."""
from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from mmeffnet.analysis.complexity import Complexity, complexity
from mmeffnet.analysis.quantities import SECONDS, UNITS, amount, milliseconds, number
from mmeffnet.analysis.targets import Found, Ratio, nearest
from mmeffnet.arch import Arch
from mmeffnet.errors import InputError, check_numbers, one_line_errors
from mmeffnet.features import resolve_arch
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import VARIANTS, Variant, get_variant

CLASSES = 1000  # of the paper's recipe
DESCRIPTION = """Scale depth, width and resolution of a network together.

Without --phi, a factor or a target the network itself is shown. Targets keep the ratio of
--alpha, --beta and --gamma, and may lie below the network that is scaled."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A network as it was asked for. scaling: None for a published one as it is."""
    base: str
    scaling: ModelScaling | None
    arch: Arch
    resolution: int
    cost: Complexity


def parser() -> argparse.ArgumentParser:
    """Arguments of tools/scale.py."""
    result = argparse.ArgumentParser(description=DESCRIPTION,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--arch', default='b0', metavar='NAME', help='what is scaled; b0 by default')
    add('--phi', type=float, help="the paper's compound coefficient")
    for name in ('width', 'depth'):
        add(f'--{name}', type=float, metavar='FACTOR', help='1 by default')
    add('--resolution', type=int, metavar='PX', help="side of the images; --arch's by default")
    add('--target-macs', metavar='1.0G', help='multiply-adds of one image')
    add('--target-params', metavar='8M', help='parameters, with --classes')
    add('--target-latency', metavar='30ms', help='of one image in inference, measured here')
    add('--tolerance', type=float, default=0.05, metavar='SHARE',
        help='how far a target may be missed; 0.05 by default')
    for name, value in (('alpha', Ratio.alpha), ('beta', Ratio.beta), ('gamma', Ratio.gamma)):
        add(f'--{name}', type=float, default=value, help=f'{value} by default')
    add('--resolution-step', type=int, default=Ratio.step, metavar='PX',
        help='with --phi or a target: sides are multiples of it; 4 by default')
    add('--classes', type=int, metavar='N', help=f"the base config's by default, {CLASSES}")
    add('--device', help='for --target-latency; CUDA where there is one')
    add('--batch', type=int, metavar='N', help="images on each device; the base config's")
    add('--devices', type=int, default=8, metavar='N', help='how many train; 8 by default')
    add('--memory', metavar='80G', help='of a device in bytes: halves the batch until it fits, in '
        'bfloat16')
    add('--out', type=Path, metavar='FILE', help='write a config that trains the network')
    add('--base', metavar='CONFIG', help='what --out inherits: a shipped config or a path; the '
        "paper's recipe by default")
    add('--table', choices=['paper'], help='print a table of docs/scaling.md instead')
    return result


def main(argv=None) -> None:
    """tools/scale.py. Exits with 2 and one line where an argument is wrong."""
    args = parser().parse_args(argv)
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Print, and write, what the arguments ask for."""
    if args.table:
        from mmeffnet.analysis.paper_table import table
        print(table())
        return
    _check(args)
    if args.classes is None:
        args.classes = _classes(args.base) if args.base else CLASSES
    scaled = scale(args)
    title = f'{args.arch}' if scaled.scaling is None else (
        f'{args.arch} scaled: width {scaled.scaling.width:.6g}, depth {scaled.scaling.depth:.6g}')
    cost = scaled.cost
    print(f'{title}, {scaled.resolution} px\n\n{scaled.arch}\n\n{cost}\n\n'
          f'{cost.multiply_adds / 1e9:.3f} G multiply-adds ({cost.flops / 1e9:.3f} GFLOPs, two for '
          f'each), {cost.parameters / 1e6:.2f} M parameters', flush=True)
    batch = show_memory(scaled, args)
    if args.out:
        write_config(scaled, batch, args)


def _check(args: argparse.Namespace) -> None:
    ways = {'--phi': args.phi, '--width, --depth or --resolution': next(
        (v for v in (args.width, args.depth, args.resolution) if v is not None), None),
        '--target-macs': args.target_macs, '--target-params': args.target_params,
        '--target-latency': args.target_latency}
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError(f'{" and ".join(given)}: each says all by itself; give one of them')
    check_numbers(args, 1, 'batch', 'devices', 'classes')
    if not 0 < args.tolerance < 1:
        raise InputError(f'--tolerance {args.tolerance} must be above 0 and below 1')
    if args.out:
        if args.out.suffix != '.py':
            raise InputError(f'--out {str(args.out)!r} must end in .py, as configs do')
        if args.out.is_dir():
            raise InputError(f'--out {str(args.out)!r} is a folder: name a file')
        from mmeffnet.inference.run import output_folder
        output_folder(str(args.out.parent))


def scale(args: argparse.Namespace) -> Scaled:
    """The network that the arguments mean; InputError where there is none."""
    try:
        variant = get_variant(args.arch)
        scaling = _scaling(args, variant)
        arch = resolve_arch(args.arch, scaling)
    except ValueError as error:
        raise InputError(str(error)) from error
    resolution = scaling.resolution if scaling else variant.resolution
    return Scaled(base=args.arch, scaling=scaling, arch=arch, resolution=resolution,
                  cost=complexity(arch, resolution, num_classes=args.classes))


def _scaling(args: argparse.Namespace, variant: Variant) -> ModelScaling | None:
    factors = dict(width=args.width, depth=args.depth, resolution=args.resolution)
    given = {name: value for name, value in factors.items() if value is not None}
    if given:
        return ModelScaling(**{'resolution': variant.resolution, **given})
    ratio = Ratio(alpha=args.alpha, beta=args.beta, gamma=args.gamma, step=args.resolution_step,
                  resolution=variant.resolution)
    if args.phi is not None:
        ModelScaling(phi=args.phi, alpha=args.alpha, beta=args.beta, gamma=args.gamma,
                     base_resolution=variant.resolution)  # refuses what is no phi
        return ratio.at(args.phi)
    if args.target_macs is not None:
        return _by_count(args, ratio, '--target-macs', args.target_macs, 'multiply_adds')
    if args.target_params is not None:
        return _by_count(args, ratio, '--target-params', args.target_params, 'parameters')
    if args.target_latency is not None:
        return _by_latency(args, ratio)
    return None


def _by_count(args, ratio: Ratio, flag: str, text: str, name: str) -> ModelScaling:
    def cost(scaling):
        return getattr(complexity(args.arch, scaling=scaling, num_classes=args.classes), name)

    target = number(flag, text, UNITS)
    return _accepted(args, flag, target, nearest(cost, target, ratio), amount)


def _by_latency(args, ratio: Ratio) -> ModelScaling:
    from mmeffnet.analysis.latency import latency
    from mmeffnet.inference.network import choose_device
    target = number('--target-latency', args.target_latency, SECONDS)
    device = choose_device(args.device)

    def cost(scaling):
        seconds = latency(resolve_arch(args.arch, scaling), scaling.resolution, device,
                          args.classes)
        print(f'{milliseconds(seconds)}: width {scaling.width:g}, depth {scaling.depth:g}, '
              f'{scaling.resolution} px', flush=True)
        return seconds

    found = nearest(cost, target, ratio, grain=0.1)
    return _accepted(args, '--target-latency', target, found, milliseconds)


def _accepted(args, flag: str, target: float, found: list[Found], say) -> ModelScaling:
    """The nearest, if it is near enough."""
    best = found[0]
    if abs(best.cost / target - 1) > args.tolerance:
        near = ' and '.join(f'{say(f.cost)} (phi {f.phi:g}: width {f.scaling.width:g}, depth '
                            f'{f.scaling.depth:g}, {f.scaling.resolution} px)'
                            for f in sorted(found, key=lambda f: f.cost))
        raise InputError(f'{flag} {say(target)}: no network lies within {args.tolerance:g} of it; '
                         f'the nearest possible: {near}. Ask for that, or widen --tolerance')
    print(f'phi {best.phi:g}: {say(best.cost)}, {best.cost / target - 1:+.2%} of '
          f'{flag} {say(target)}\n')
    return best.scaling


def show_memory(scaled: Scaled, args: argparse.Namespace) -> int:
    """Print what training takes on one device, and give the batch that is taken."""
    import torch

    from mmeffnet.analysis.memory import activations
    from mmeffnet.analysis.scaling_out import COPIES, FLOAT32
    arch = scaled.base if scaled.scaling is None else scaled.arch
    single, half = (activations(arch, scaled.resolution, precision)
                    for precision in (torch.float32, torch.bfloat16))
    state = COPIES * FLOAT32 * scaled.cost.parameters
    batch = args.batch or _batch(_base(scaled, args))
    if args.memory:
        room = number('--memory', args.memory, UNITS)
        if state + half.all > room:
            raise InputError(f'--memory {args.memory}: one image takes '
                             f'{amount(state + half.all)} bytes in bfloat16')
        while state + batch * half.all > room:
            batch = batch // 2
    total = {name: f'{(state + batch * kept) / 1e9:.2f}' for name, kept in (
        ('float32', single.all), ('bfloat16', half.all), ('recomputed', half.recomputed))}
    print(f'training with {batch} images on a device: {total["float32"]} GB in float32, '
          f'{total["bfloat16"]} in bfloat16, {total["recomputed"]} with recomputed blocks too '
          f'({state / 1e9:.2f} of it weights, gradients, RMSProp and averages)')
    return batch


def _base(scaled: Scaled, args: argparse.Namespace) -> str:
    from mmeffnet.analysis.scaled_config import BASES
    return args.base or BASES[VARIANTS[scaled.base].family]


def _batch(base: str) -> int:
    from mmeffnet.analysis.scaled_config import base_config
    batch = (base_config(base).get('train_dataloader') or {}).get('batch_size')
    if not batch:
        raise InputError(f'--base {base!r} has no train_dataloader.batch_size: give --batch, or '
                         'the config of a training')
    return batch


def _classes(base: str) -> int:
    from mmeffnet.analysis.scaled_config import base_config
    head = (base_config(base).get('model') or {}).get('head') or {}
    return head.get('num_classes', CLASSES)


def write_config(scaled: Scaled, batch: int, args: argparse.Namespace) -> None:
    """--out: the config, and how to train with it."""
    from mmeffnet.analysis.scaled_config import Recipe, dropout, write
    variant = VARIANTS[scaled.base]
    rate = variant.dropout if scaled.scaling is None else dropout(
        variant, complexity(scaled.arch, scaled.resolution).multiply_adds)
    notes = write(Recipe(
        arch=scaled.base, scaling=scaled.scaling, resolution=scaled.resolution, dropout=rate,
        head=scaled.arch.head, base=_base(scaled, args), batch=batch, classes=args.classes,
        devices=args.devices), args.out)
    train = shlex.join(['tools/train.py', str(args.out)])
    print(f'\nwritten: {args.out}. Train with: {train}', *notes, sep='\n')
