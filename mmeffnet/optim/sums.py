"""What RMSpropTF keeps of each parameter, and what it makes of the state of others."""
import torch

# The step, and the mean square in another form: (square + eps) / (1 - alpha).
SUM, STEP = 'square_sum', 'momentum_buffer'
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
    """The state of a parameter with all that belongs there, as it starts or from what others call
    it."""
    if SQUARE in state:
        state[SUM] = (state.pop(SQUARE) + rule['eps']) / (1 - rule['alpha'])
    elif SUM not in state:  # of a square of one
        state[SUM] = torch.full_like(param, (1 + rule['eps']) / (1 - rule['alpha']),
                                     memory_format=torch.preserve_format)
    if STEP not in state:  # timm's has none without momentum
        state[STEP] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return state


def follow_rule(group: dict, states: dict) -> None:
    """Keep the squares of a group whose alpha or eps is another than at the last step.

    Sums mean something only together with these two, which a scheduler may change.
    """
    now = group['alpha'], group['eps']
    then = group['sums_of'] and tuple(group['sums_of'])
    if then not in (None, now):
        for param in group['params']:
            if SUM in states.get(param, {}):
                states[param][SUM].mul_((1 - then[0]) / (1 - now[0]))
                states[param][SUM].add_((now[1] - then[1]) / (1 - now[0]))
    group['sums_of'] = now
