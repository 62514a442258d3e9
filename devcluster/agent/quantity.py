"""Kubernetes quantities (`500m`, `4Gi`, `1e3`) as exact numbers."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_PATTERN = re.compile(r"^([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE]))?$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(text: str) -> Fraction:
    """The value of a quantity; `ValueError` names a text that is none."""
    match = _PATTERN.match(text.strip())
    if match is None:
        raise ValueError(f"quantity {text!r} is not a number with a Kubernetes suffix")
    number, exponent, suffix = match.groups()
    if exponent:
        return Fraction(number) * Fraction(10) ** int(exponent[1:])
    if suffix in _BINARY:
        return Fraction(number) * Fraction(2) ** _BINARY[suffix]
    return Fraction(number) * Fraction(10) ** _DECIMAL.get(suffix or "", 0)


def in_units_of(text: str, divisor: str) -> str:
    """A quantity as a whole number of divisors, rounded up, as `resourceFieldRef` gives it."""
    unit = parse(divisor) or Fraction(1)
    return str(math.ceil(parse(text) / unit))
