"""Files and folders that a prototxt or a solver names: shown before anything is run."""

from __future__ import annotations

from typing import Any


def named_paths(net: Any) -> list[tuple[str, str]]:
    """Files and folders that a prototxt names, as (layer and field, path)."""
    found = []
    for layer in net.layer:
        if layer.transform_param.mean_file:
            found.append((f"layer '{layer.name}' mean_file", layer.transform_param.mean_file))
        for field in ("data_param", "image_data_param", "hdf5_data_param", "window_data_param", "infogain_loss_param"):
            if layer.HasField(field) and getattr(layer, field).source:
                found.append((f"layer '{layer.name}' source", getattr(layer, field).source))
        if layer.type == "Python":
            found.append((f"layer '{layer.name}' module", layer.python_param.module))
        if layer.type == "HDF5Output":
            found.append((f"layer '{layer.name}' writes", layer.hdf5_output_param.file_name))
    return found


def solver_paths(solver: Any) -> list[tuple[str, str]]:
    """Files that a solver names, as (field, path)."""
    fields = ("net", "train_net", "test_net", "snapshot_prefix", "weights")
    found: list[tuple[str, str]] = []
    for field in fields:
        value = getattr(solver, field, "")
        found += [(field, v) for v in ([value] if isinstance(value, str) else value) if v]
    return found
