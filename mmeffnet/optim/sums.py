"""What RMSpropTF keeps of each parameter, and what it makes of the state of others."""
import torch

# The step, and the mean square in another form: (square + eps) / (1 - alpha), which means something
# only together with these two.
SUM, STEP = 'square_sum', 'momentum_buffer'
ALPHA, EPS = 'sum_alpha', 'sum_eps'
# The mean square itself, in the state of timm's RMSpropTF and of our earlier ones.
SQUARE = 'square_avg'
RULE = 'lr', 'alpha', 'eps', 'momentum', 'weight_decay', 'decoupled_weight_decay'
# Of timm's RMSpropTF, with the value that leaves TensorFlow's rule as it is.
VARIATIONS = dict(lr_in_momentum=True, centered=False, caution=False, corrected_weight_decay=False)


def check_rule(number: int, group: dict) -> None:
    """ValueError for a saved parameter group of an optimizer that computes something else."""
    found = [f'{key!r} is missing' for key in RULE if key not in group]
    found += [f'{key}={group[key]!r}' for key, plain in VARIATIONS.items()
              if group.get(key, plain) != plain
              # Without momentum the rate scales the same step before or after.
              and (key != 'lr_in_momentum' or group.get('momentum'))]
    if found:
        raise ValueError(f'param_groups[{number}] was saved by an optimizer of another rule than '
                         f"RMSpropTF's ({', '.join(found)}): load the weights alone and start "
                         'with a new optimizer')


def have_state(state: dict, param: torch.Tensor, rule: dict) -> dict:
    """The state of a parameter with all that belongs there for a rule: as it starts, of an earlier
    step, or from what others call it.

    Raises ValueError for the state of a parameter of another shape.
    """
    alpha, eps = rule['alpha'], rule['eps']
    if SQUARE in state:
        state[SUM] = (state.pop(SQUARE) + eps) / (1 - alpha)
    elif SUM not in state:  # of a square of one
        state[SUM] = torch.full_like(param, (1 + eps) / (1 - alpha),
                                     memory_format=torch.preserve_format)
    elif (state.get(ALPHA, alpha), state.get(EPS, eps)) != (alpha, eps):
        # A scheduler may change both; the square stays.
        state[SUM].mul_((1 - state[ALPHA]) / (1 - alpha)).add_((eps - state[EPS]) / (1 - alpha))
        state[SUM].clamp_(min=eps / (1 - alpha))  # against rounding
    state[ALPHA], state[EPS] = alpha, eps
    if STEP not in state:  # timm's has none without momentum
        state[STEP] = torch.zeros_like(param, memory_format=torch.preserve_format)
    if not param.shape == state[SUM].shape == state[STEP].shape:
        raise ValueError(
            f'a parameter of shape {tuple(param.shape)} has the state of one of shape '
            f'{tuple(state[SUM].shape)}, as of another number of classes: load the weights alone '
            'and start with a new optimizer')
    return state
