"""How long a runtime may be silent over a step: many times what the step took before, so that only what hangs is ended."""

from __future__ import annotations

#: Seconds that every step has, and the first of its kind, of which nothing is known: converters of large networks take minutes.
LEAST, FIRST = 600.0, 1800.0
#: How many times as long as before a step may take.
TIMES = 10.0


class Patience:
    """What steps took, by kind; larger ones may take longer in proportion."""

    def __init__(self) -> None:
        self._longest: dict[str, tuple[float, float]] = {}

    def limit(self, kind: str, size: float = 1.0, expected: float = 0.0) -> float:
        """Seconds after which a step is taken to hang.

        Parameters
        ----------
        size : float
            Of the step, in any unit of its kind, such as bytes of a network's weights.
        expected : float
            Seconds that it should take, where that is known.
        """
        if kind not in self._longest:
            return max(FIRST, TIMES * expected)
        seconds, before = self._longest[kind]
        return max(LEAST, TIMES * seconds * max(1.0, size / before), TIMES * expected)

    def took(self, kind: str, seconds: float, size: float = 1.0) -> None:
        """Remember a step that was answered."""
        if seconds >= self._longest.get(kind, (0.0, 1.0))[0]:
            self._longest[kind] = seconds, max(size, 1e-9)

    def words(self, kind: str) -> str:
        """What a step of this kind took before, for a person; empty where nothing is known."""
        return f" (before, {spoken(self._longest[kind][0])} at most)" if kind in self._longest else ""


def spoken(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size:
            number = round(seconds / size, 1)
            return f"{number:g} {unit}{'s' if number != 1 else ''}"
    return f"{seconds:.2g} seconds"
