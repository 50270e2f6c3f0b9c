"""How many output channels the layers before pruned ones have left."""

from __future__ import annotations

from typing import Mapping

from enc_caffe.coupling import Group
from enc_caffe.decomposition.table import pruning
from enc_caffe.errors import PlanError
from enc_caffe.form import Form
from enc_caffe.network import Network


def takes_channels(form: Form) -> bool:
    """Whether other layers change with a form."""
    return form.scheme in pruning()


def pruned_group(network: Network, name: str) -> Group:
    """The channels that a layer reads; :class:`PlanError` saying why none of them can be taken out."""
    group, why = network.coupled.read_by(name)
    if group is None:
        raise PlanError(f"layer '{name}' cannot lose input channels: {why}")
    return group


def widths(network: Network, forms: Mapping[str, Form]) -> dict[str, int]:
    """Output channels that are left, by layer, of all that some form leaves fewer channels.

    Raises
    ------
    PlanError
        Where channels of a pruned layer's input cannot be taken out.
    """
    found: dict[str, int] = {}
    for name, form in forms.items():
        if takes_channels(form):
            group = pruned_group(network, name)
            found.update(dict.fromkeys((*group.makers, *group.keepers), form.ranks[0]))
    return found
