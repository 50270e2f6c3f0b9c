"""What people call files that the toolkit made of theirs: messages say their own names, wherever they come from.

Images of ``--images`` become an LMDB in the user's cache, and everything after that knows this path alone. Whatever is printed goes
through here, so that no message has to remember it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_CALLED: dict[str, str] = {}


def call(path: Path, name: Path) -> None:
    """Let messages say ``name`` where they would say ``path``."""
    _CALLED[str(path)] = _CALLED[str(Path(path).absolute())] = str(name)


def named(text: object) -> str:
    """A message by people's own names."""
    said = str(text)
    for path in sorted(_CALLED, key=len, reverse=True):
        said = said.replace(path, _CALLED[path])
    return said


def say(line: object) -> None:
    """Tell a person on standard error."""
    print(named(line), file=sys.stderr)
