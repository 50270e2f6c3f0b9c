"""Settings that belong to one method alone: their flags, defaults and ranges, and what contradicts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional

from enc_caffe.errors import UsageError


@dataclass(frozen=True)
class Own:
    """One setting of some methods.

    Attributes
    ----------
    flag : str
    methods : tuple of str
        The methods that know it.
    default : float or None
        Where nobody sets it; None: it follows from the others.
    low, high : float
        Least (for numbers that are not whole: to be exceeded, unless it is below 0) and largest value.
    whole : bool
        Whether it is a whole number.
    what : str
        For the help.
    """

    flag: str
    methods: tuple[str, ...]
    default: Optional[float]
    low: float
    high: float
    whole: bool
    what: str


OWN: Mapping[str, Own] = {
    "episodes": Own("--episodes", ("adc", "amc"), 400, 1, 1_000_000, True, "episodes in all, one evaluation each"),
    "exploration": Own("--exploration", ("adc", "amc"), None, 0, 1_000_000, True, "episodes that only explore (default: a quarter of them)"),
    "noise": Own("--noise", ("adc", "amc"), 0.5, 0, 10, False, "standard deviation of an action's noise"),
    "noise_decay": Own("--noise_decay", ("adc", "amc"), 0.95, 0, 1, False, "factor of the noise for every episode after exploration"),
    "step": Own("--step", ("ars", "iterative"), 0.05, 0, 1, False, "part of C_orig that a step takes away"),
    "boundary": Own("--boundary", ("ars", "iterative"), 0.15, 0, 1, False, "part of r_max that a layer may lose a step"),
    "shortlist": Own("--shortlist", ("ars", "iterative"), 3, 1, 10_000, True, "plans that are evaluated a step"),
    "tilt": Own("--tilt", ("heuristic",), 0.25, -1, 1, False, "how much more the first layer keeps than the middle one"),
}  # fmt: skip

#: Methods whose rule knows no budget: they say how far they are from one.
UNBUDGETED = ("y_d",)
#: Methods that take channels out and do nothing else.
PRUNING = ("amc",)


def check(method: str, given: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for a setting of another method, out of its range, or against another one.

    Parameters
    ----------
    method : str
    given : mapping of a name in :data:`OWN` to a value; None: not given
    """
    for name, value in given.items():
        own = OWN[name]
        if value is None:
            continue
        if method not in own.methods:
            raise UsageError(
                f"{own.flag} {value}: belongs to --method {own.methods[0]}, but --method {method} is asked for"
            )
        within = own.low <= value <= own.high if own.whole or own.low < 0 else own.low < value <= own.high
        if not within or (own.whole and value != int(value)):
            kind = "a whole number" if own.whole else "a number"
            least = "from" if own.whole or own.low < 0 else "above"
            raise UsageError(f"{own.flag} {value}: {kind} {least} {own.low:g} to {own.high:g} is needed")
    episodes, exploration = (given.get(n) for n in ("episodes", "exploration"))
    most = episodes if episodes is not None else OWN["episodes"].default
    if exploration is not None and most is not None and exploration > most:
        raise UsageError(f"--exploration {exploration}: more than the {most:g} episodes in all (--episodes)")


def value_of(name: str, given: Mapping[str, Any]) -> float:
    """What holds for a setting: the given value, else the default."""
    if given.get(name) is not None:
        return float(given[name])
    default = OWN[name].default
    # Of 400 episodes the papers explore in 100.
    return float(value_of("episodes", given) // 4) if default is None else default
