"""Arguments of calls from Python, brought to what the stages take: a wrong one is an error of one line here, as a wrong flag is."""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Collection, Iterable, Mapping, Optional, Union

from enc_caffe.decomposition.policy import parse_schemes
from enc_caffe.errors import UsageError, nearest
from enc_caffe.form import Schemes
from enc_caffe.search.options import SearchOptions

#: What a caller may say of images, by the names of the command's flags.
FEED = ("mean_value", "mean_file", "scale", "crop_size", "channel_order", "resize", "force_color", "force_gray")
_INTEGERS = ("multiple_of", "candidates", "seed", "episodes", "exploration", "shortlist")
_NUMBERS = (
    "target_flops", "target_params", "target_latency", "target_accuracy", "floor", "space_margin", "complexity_margin", "density", "noise",
    "noise_decay", "step", "boundary", "tilt",
)  # fmt: skip


def schemes_of(given: Union[str, Iterable[str]]) -> Schemes:
    """Schemes by one string, as the flag has them, or by their names.

    Raises
    ------
    UsageError
        For a name that is unknown, or what is none.
    """
    return parse_schemes(",".join(names_of("schemes", given)))


def names_of(what: str, given: Union[str, Iterable[str]]) -> tuple[str, ...]:
    """Names by one string, commas between them, or one by one.

    Raises
    ------
    UsageError
        For what is no name.
    """
    names = tuple(given.split(",")) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
    if (not names and not isinstance(given, Collection)) or not all(isinstance(n, str) for n in names):
        raise UsageError(f"{what} {given!r}: a name, or names, are needed")
    return tuple(n for n in names if n)


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError for an option that there is none of, with the nearest one."""
    names = sorted(known)
    for name in given:
        if name not in names:
            raise UsageError(f"option '{name}' is unknown{nearest(name, names)}; known are {', '.join(names)}")


def check_number(name: str, value: Any, whole: bool = False) -> None:
    """Raise UsageError for what is no number, or no integer where that is asked for."""
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        raise UsageError(f"{name} {value!r}: {'an integer' if whole else 'a number'} is needed")


def tuple_of(name: str, given: Any) -> tuple[int, ...]:
    """Integers, or one; UsageError otherwise."""
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    for value in values:
        check_number(name, value, whole=True)
    return values


def checked_shape(given: Any) -> Optional[tuple[int, ...]]:
    """An ``input_shape`` (C, H, W), or None; UsageError for anything else."""
    if given is None:
        return None
    shape = tuple(given) if isinstance(given, (tuple, list)) else ()
    if len(shape) != 3 or not all(isinstance(n, Integral) and int(n) > 0 for n in shape):
        raise UsageError(f"input_shape {given!r}: (channels, height, width) is needed, three integers")
    return tuple(int(n) for n in shape)


def search_options(given: Mapping[str, Any], more: Iterable[str] = ()) -> SearchOptions:
    """Options of a search by the names of its fields.

    Parameters
    ----------
    given : mapping
    more : iterable of str
        Other options that the call has, which a message lists too.

    Raises
    ------
    UsageError
        For unknown names, values of another type, and options that contradict each other.
    """
    known = {f.name for f in fields(SearchOptions)}
    check_known(given, known | set(more))
    asked = dict(given)
    for name, value in given.items():
        if value is not None and name in (*_INTEGERS, *_NUMBERS):
            check_number(name, value, name in _INTEGERS)
    if "schemes" in asked:
        asked["schemes"] = schemes_of(asked["schemes"])
    if "whole" in asked:
        # Names of layers may have commas.
        whole = asked["whole"]
        asked["whole"] = frozenset({whole} if isinstance(whole, str) else names_of("whole", whole))
    if "bounds" in asked:
        asked["bounds"] = _bounds(asked["bounds"])
    return SearchOptions(**asked)


def _bounds(given: Any) -> dict[str, tuple[Any, Any]]:
    if not isinstance(given, Mapping):
        raise UsageError(f"bounds {given!r}: a mapping of layer to (lowest, highest) is needed")
    for name, ends in given.items():
        pair = tuple(ends) if isinstance(ends, (tuple, list)) else ()
        if len(pair) != 2 or not all(e is None or isinstance(e, Integral) for e in pair):
            raise UsageError(f"bounds {{{name!r}: {ends!r}}}: (lowest, highest) is needed, integers or None")
    return {name: (ends[0], ends[1]) for name, ends in given.items()}
