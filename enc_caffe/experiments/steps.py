"""Steps that leave a record: what was finished for the same inputs is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from enc_caffe.errors import OutputError
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.measuring.store import digest_of

FORMAT = "enc-caffe-step/1"


class Steps:
    """Records of finished steps in a folder, one JSON file each, written when the step has ended.

    Parameters
    ----------
    folder : Path
    say : callable
        Gets a line for every step.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self.say = Path(folder), say
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"{folder}: cannot be created ({exc.strerror})") from None

    def run(
        self, name: str, inputs: Mapping[str, Any], outputs: Sequence[Path], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Result of a step (JSON data): the recorded one if inputs are the same and all outputs exist, else ``make``'s."""
        record, key = self.folder / f"{name}.json", digest_of(dict(inputs))
        if record.is_file() and all(Path(p).exists() for p in outputs):
            try:
                before = read_json(record, FORMAT, OutputError)
            except OutputError:
                before = {}
            if before.get("inputs") == key:
                self.say(f"{name}: done before")
                return dict(before["result"])
        self.say(f"{name} ...")
        result = make()
        write_json(record, {"format": FORMAT, "inputs": key, "result": result})
        return result
