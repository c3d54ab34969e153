"""Counts and times with their units, as a command line takes and prints them."""
import re

from mmeffnet.errors import InputError

UNITS = {'': 1, 'K': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}
SECONDS = {'s': 1, 'ms': 1e-3, 'us': 1e-6}


def number(flag: str, text: str, units: dict[str, float]) -> float:
    """'1.5G' or '30ms' as a number above 0; InputError names the flag and the units."""
    match = re.fullmatch(r'\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*', text)
    known = {unit.lower(): factor for unit, factor in units.items()}
    try:
        value = float(match[1]) * known[match[2].lower()]
    except (TypeError, ValueError, KeyError):
        value = 0
    if not 0 < value < float('inf'):
        raise InputError(f'{flag} {text!r} must be a number above 0, with one of the units '
                         f'{", ".join(unit for unit in units if unit)}')
    return value


def amount(value: float) -> str:
    """A count with its unit: 1.234G."""
    unit = next((u for u in ('T', 'G', 'M', 'K') if value >= UNITS[u]), '')
    return f'{value / UNITS[unit]:.4g}{unit}'


def milliseconds(seconds: float) -> str:
    """A time: 1.23ms."""
    return f'{seconds * 1e3:.3g}ms'
