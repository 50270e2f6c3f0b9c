"""What a converter made of a network, against stock Caffe, and the table of all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

#: Largest error of an output over its largest value that counts as right.
BOUND = 1e-3


@dataclass(frozen=True)
class Found:
    """The error of a network's outputs, or why there are none."""

    error: Optional[float] = None
    refused: str = ""

    @property
    def right(self) -> bool:
        """Whether it ran and its outputs are Caffe's."""
        return self.error is not None and self.error <= BOUND

    def words(self) -> str:
        """In a word or two."""
        if self.error is None:
            return f"refused ({self.refused})"
        return f"{self.error:.0e}" if self.right else f"WRONG {self.error:.2g}"

    def worse_than(self, original: Found) -> bool:
        """Whether this emission is wrong or refused where the original is right."""
        return original.right and not self.right


def worst_error(wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> float:
    """Largest error of an output over that output's largest value; infinite where one is of another size or not a number."""
    worst = 0.0
    for name, value in wanted.items():
        other = got[name]
        if other.size != value.size or not np.isfinite(other).all():
            return float("inf")
        scale = float(np.abs(value).max(initial=0)) or 1.0
        worst = max(worst, float(np.abs(other.ravel() - value.ravel()).max(initial=0)) / scale)
    return worst


def cell(rows: Mapping[str, Found]) -> str:
    """The original, and the worst of its emissions, in few words."""
    if "original" not in rows:
        return "not run"
    original = rows["original"]
    emitted = {form: row for form, row in rows.items() if form != "original"}
    if original.error is None and all(row.error is None for row in emitted.values()):
        return "refuses"
    bad = [form for form, row in emitted.items() if not row.right]
    errors = [row.error for row in emitted.values() if row.error is not None]
    after = f"{max(errors):.0e}" if errors and not bad else f"not {', '.join(bad)}"
    before = "refuses" if original.error is None else f"{original.error:.0e}" if original.right else f"wrong ({original.error:.1g})"  # fmt: skip
    if not emitted:
        return before
    return f"{before}; {after}" if not bad or original.right else f"{before}; so are the emissions"


def whose(rows: Mapping[str, Found]) -> str:
    """Whose failure a refusal is: the converter's, where it refuses the original too, else which emissions have it."""
    forms = [form for form, row in rows.items() if row.refused]
    return "the original too" if "original" in forms else f"{', '.join(forms)} alone"


def table(found: Mapping[str, Mapping[str, Mapping[str, Found]]], converters: Sequence[Any]) -> str:
    """A row for each network, a column for each converter (with ``name`` and ``version``); what is refused, and why, below."""
    names = [c.name for c in converters]
    lines = [
        f"| network | {' | '.join(f'{c.name} {c.version}' if c.version[:4] not in c.name else c.name for c in converters)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for network, by in found.items():
        lines.append(f"| {network} | {' | '.join(cell(by[n]) for n in names)} |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for network, by in found.items():
        for name in names:
            why = next((r.refused for r in by[name].values() if r.refused), "")
            if why:
                reasons.setdefault((name, short(why)), []).append(f"{network} ({whose(by[name])})")
    if reasons:
        lines += ["", "Refused:", ""]
        lines += [f"- {name}: {', '.join(networks)}: `{why}`" for (name, why), networks in reasons.items()]
    return "\n".join(lines)


def short(why: str, length: int = 160) -> str:
    """One line of an error, without places of files and quotes that Markdown would take."""
    words = [w for w in why.split() if not w.startswith(("/", "(/"))]
    text = " ".join(words).replace("`", "'").replace("|", "/")
    return text if len(text) <= length else text[: length - 3] + "..."
