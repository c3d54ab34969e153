"""Weights of any library in a run: checked before it starts, translated while they load."""
from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log

from mmeffnet.errors import InputError, one_line
from mmeffnet.registry import HOOKS
from mmeffnet.weights import Weights, load_weights
from mmeffnet.weights.files import statements
from mmeffnet.weights.fit import CLASSIFIER_KEYS, fit, warn_of_numerics
from mmeffnet.weights.layouts import BACKBONE, OURS
from mmeffnet.weights.sources import published, read_state, with_statements
from mmeffnet.weights.translate import COUNTERS, few, find_networks, translate
from mmeffnet.weights.wrappers import weights_of


def backbone_of(model: torch.nn.Module) -> tuple[str, torch.nn.Module] | None:
    """The prefix and the only EfficientNet of ours in a model, None without or with several."""
    # Not at the top: models bring mmpretrain in, and a wrong path shall be told at once.
    from mmeffnet.models import EfficientNet
    found = [(f'{name}.' if name else '', module) for name, module in model.named_modules()
             if isinstance(module, EfficientNet)]
    return found[0] if len(found) == 1 else None


def load_any(source, model: torch.nn.Module) -> Weights | None:
    """Weights of any layout for the one EfficientNet in ``model``, None where there is none."""
    found = backbone_of(model)
    return load_weights(source, also=found[1].arch) if found else None


def fit_model(weights: Weights, model: torch.nn.Module, *, new_classes: bool) -> dict:
    """Weights under the keys of ``model``, checked against its network.

    new_classes: let a classifier of another class count start anew; False refuses it.
    A neck and heads beside the network are kept as they are, where the file is ours or the model
    has a method ``reads`` that knows them: EfficientDet translates those of effdet by itself.
    Raises InputError naming the variant that the weights really are, or the keys.
    """
    from mmeffnet.models.loading import eps_of, padding_of
    prefix, backbone = backbone_of(model)
    theirs = model.state_dict()
    expected = {BACKBONE + key.removeprefix(prefix): value for key, value in theirs.items()
                if key.startswith(prefix)}
    if prefix == BACKBONE:
        expected |= {key: theirs[key] for key in CLASSIFIER_KEYS if key in theirs}
    state = fit(weights, expected, backbone.arch, new_classes=new_classes,
                unused=tuple(BACKBONE + key.removeprefix(prefix) for key in _unused(model)))
    warn_of_numerics(weights, padding=padding_of(backbone), eps=eps_of(backbone))
    named = {prefix + key.removeprefix(BACKBONE) if key.startswith(BACKBONE) else key: value
             for key, value in state.items()}
    others = weights.others
    if others and weights.layout != OURS.name and not (
            hasattr(model, 'reads') and model.reads(others)):
        print_log(f'{weights.source}: {len(others)} tensors beside the network are left out: '
                  f'{few(list(others))}', 'current')
        others = {}
    return {**others, **named}


def _unused(model: torch.nn.Module) -> tuple[str, ...]:
    """Key prefixes of the layers of the network in a model that never run."""
    from mmeffnet.models.loading import unused_layers
    found = backbone_of(model)
    return tuple(found[0] + layer for layer in unused_layers(found[1])) if found else ()


def load_whole(source, model: torch.nn.Module) -> Sequence[str]:
    """Load weights and refuse those that would leave the model partly random.

    MMEngine itself loads what fits and warns of the rest. Gives the names of the classes that the
    file says it was trained with; empty where it says none. Raises InputError naming the
    variant that the file really is, or the keys.
    """
    weights = load_any(source, model)
    if weights is None and '://' in str(source):
        return ()  # another project's network and address: MMEngine loads it by itself
    state, stated = (fit_model(weights, model, new_classes=False), weights.stated) \
        if weights else read_state(source)
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).splitlines() if 'size mismatch' in line]
        raise InputError(f'checkpoint {str(source)!r} does not fit the model: '
                         f'{few(shapes) or one_line(error)}') from error
    # Means and deviations of the input come with the config; counters change no result, and neither
    # do layers past the last output.
    needless = 'data_preprocessor.', *_unused(model)
    missing = [key for key in missing if not key.startswith(needless)
               and not key.endswith(COUNTERS)]
    if missing:
        raise InputError(f'checkpoint {str(source)!r} lacks {len(missing)} tensors of the model: '
                         f'{few(missing)}')
    return stated.get('names', ())


@HOOKS.register_module()
class AnyWeightsHook(Hook):
    """Lets ``load_from`` name weights of any layout, in any project's tools.

    A whole classifier's or a bare network's file is translated before MMEngine loads it; a
    classifier of another class count starts anew, and every other difference is an error.
    Where a hook evaluates the weights before averaging too, they are translated alongside.
    Several hooks that average weights are refused before anything is loaded.
    """

    priority = 'VERY_HIGH'  # hooks that average weights read the checkpoint after this one

    def before_run(self, runner) -> None:
        averaging = [f'{type(hook).__name__} with ema_type={hook.ema_cfg["type"]!r}'
                     for hook in runner.hooks if isinstance(hook, EMAHook)]
        if len(averaging) > 1:
            raise InputError(
                f'custom_hooks averages weights {len(averaging)} times ({", ".join(averaging)}): '
                'in a validation each would exchange the weights of the other, and a checkpoint '
                'holds one average; leave one of them')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        model = bare_model(runner.model)
        found = backbone_of(model)
        if runner._resume or not found or not isinstance(checkpoint, Mapping):
            return
        source = str(runner._load_from or 'the checkpoint').removeprefix('mmeffnet://')
        own = model.state_dict()
        # A classifier that starts anew stays as it is, and so do layers that never run: it has been
        # said already, or need not be, and MMEngine would say it over many lines.
        anew = {key: own[key] for key in own if key in CLASSIFIER_KEYS
                or key.startswith(_unused(model))}

        def fitted(state: Mapping) -> dict:
            mine = [prefix for layout, prefix in find_networks(state)
                    if layout is OURS and prefix == found[0]]
            weights = with_statements(
                translate(state, source, prefix=mine[0] if mine else None, also=found[1].arch,
                          entry=published(source)), statements(checkpoint))
            return {**anew, **fit_model(weights, model, new_classes=True)}

        loaded = dict(state_dict=fitted(weights_of(checkpoint)))
        before = _before_averaging(checkpoint, runner)
        if before:
            # Whoever trains from here begins an average of its own, with the weights of this one.
            loaded['ema_state_dict'] = dict(steps=torch.tensor(0)) | {
                f'module.{key}': value for key, value in fitted(before).items()}
        checkpoint.clear()
        checkpoint.update(loaded)


def _before_averaging(checkpoint: Mapping, runner) -> dict[str, torch.Tensor]:
    """What MMEngine keeps of a network beside its averages, where a hook evaluates both."""
    kept = checkpoint.get('ema_state_dict')
    if not isinstance(kept, Mapping) or not any(
            getattr(hook, 'evaluate_on_origin', False) for hook in runner.hooks):
        return {}
    return {key.removeprefix('module.'): value for key, value in kept.items()
            if key.startswith('module.')}


def bare_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside the wrappers of distributed runs and test-time augmentation."""
    return getattr(model, 'module', model)
