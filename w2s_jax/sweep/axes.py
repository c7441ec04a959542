"""Axis values: comma lists and ranges as flags write them, in canonical decimals."""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from w2s_jax.errors import GridError

ETA_O = "eta_o"  # the benchmark's own minority fraction
UNLABELLED = "unlabelled"  # eta_u of truly unlabelled rows


def canonical(value: float) -> float:
    """The float that 12 significant decimals stand for, so that equal settings have equal keys.

    >>> canonical(0.1 + 0.2)
    0.3
    """
    return float(f"{value:.12g}")


def parse_axis(text: str, name: str) -> tuple[float | str, ...]:
    """Numbers from a comma list whose entries may be ranges.

    ``start:stop:num`` gives num evenly spaced values, both ends included;
    ``start:stop:num:log`` spaces them by equal factors. The words eta_o and unlabelled pass
    through.

    Args:
        text: as a flag has it, such as ``0.1,0.2:0.5:4``.
        name: of the flag, for errors.

    Raises:
        GridError: where an entry is no number, range or known word.

    >>> parse_axis("0:0.5:3,eta_o", "eta_u")
    (0.0, 0.25, 0.5, 'eta_o')
    >>> parse_axis("0.001:1:4:log", "teacher_l2")
    (0.001, 0.01, 0.1, 1.0)
    """
    values: list[float | str] = []
    for entry in text.split(","):
        entry = entry.strip()
        if entry in (ETA_O, UNLABELLED):
            values.append(entry)
            continue
        parts = entry.split(":")
        try:
            if len(parts) == 1:
                values.append(canonical(float(Decimal(entry))))
                continue
            start, stop = Decimal(parts[0]), Decimal(parts[1])
            num = int(parts[2])
            log = parts[3:] == ["log"]
            if num < 2 or (parts[3:] and not log) or (log and (start <= 0 or stop <= 0)):
                raise ValueError
        except (InvalidOperation, ValueError, IndexError):
            raise GridError(
                f"--{name}: cannot read {entry!r}; give numbers such as 0.1,0.5, or ranges "
                "start:stop:num or start:stop:num:log (both ends included: ten seeds are 0:9:10)"
            ) from None
        if log:
            spaced = np.geomspace(float(start), float(stop), num)
            values.extend(canonical(v) for v in spaced)
        else:
            values.extend(
                canonical(float(start + (stop - start) * i / (num - 1))) for i in range(num)
            )
    return tuple(values)


def as_tuple(values: Any, name: str) -> tuple[Any, ...]:
    """An axis as a tuple: a scalar or string stands for itself, duplicates are dropped."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        values = (values,)
    unique = tuple(dict.fromkeys(values))
    if not unique:
        raise GridError(f"{name} has no values; give at least one")
    return unique


def check_numbers(
    values: tuple[Any, ...],
    name: str,
    *,
    low: float,
    high: float = float("inf"),
    open_low: bool = False,
    integer: bool = False,
    words: tuple[str, ...] = (),
) -> tuple[Any, ...]:
    """Canonical numbers within a range; words that the axis knows pass through.

    Raises:
        GridError: naming the axis, the value found and the range.
    """
    out: list[Any] = []
    for value in values:
        if value in words:
            out.append(value)
            continue
        number = isinstance(value, int | float | np.integer | np.floating)
        if number and not isinstance(value, bool):
            whole = not integer or float(value).is_integer()
            above = value > low if open_low else value >= low
            if whole and above and value <= high and np.isfinite(value):
                out.append(int(value) if integer else canonical(float(value)))
                continue
        kind = "a whole number" if integer else "a number"
        left = "(" if open_low else "["
        right = "inf)" if high == float("inf") else f"{high:g}]"
        known = f", or {' or '.join(words)}" if words else ""
        raise GridError(f"{name} must be {kind} in {left}{low:g}, {right}{known}; found {value!r}")
    return tuple(dict.fromkeys(out))
