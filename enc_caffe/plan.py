"""Rank plans, and their JSON format ``enc-caffe-ranks/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

from enc_caffe.errors import PlanError
from enc_caffe.jsonfile import check_finite, read_json, write_json
from enc_caffe.network import Network

FORMAT = "enc-caffe-ranks/1"


@dataclass(frozen=True)
class RankPlan:
    """Ranks of one group for the layers to decompose; a layer that is absent stays whole.

    Attributes
    ----------
    network : str
    ranks : mapping of layer name to rank of one group
    schemes : mapping of layer name to scheme; a layer without an entry gets the default policy's scheme
    about : mapping
        How the plan came to be: method, metric, solver, flops_ratio, params_ratio, convention, counted, objective,
        proven_optimal, search_seconds.
    """

    network: str
    ranks: Mapping[str, int]
    schemes: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def check(self, network: Network, max_ranks: Mapping[str, int], source: str = "the rank plan") -> None:
        """Hold the plan against a network.

        Raises
        ------
        PlanError
            For a layer that does not exist or cannot be decomposed, a scheme that is not for its type, and a rank below 1 or
            above r_max.
        """
        for name, rank in self.ranks.items():
            if name not in network:
                raise PlanError(f"{source}: layer '{name}' is not in network '{network.name}'")
            if name not in max_ranks:
                reason = network[name].keep_reason or f"type {network[name].type} is never decomposed"
                raise PlanError(f"{source}: layer '{name}' cannot be decomposed: {reason}")
            scheme, connected = self.schemes.get(name, ""), network[name].inner_product is not None
            if scheme and (scheme == "inner_product") != connected:
                raise PlanError(f"{source}: layer '{name}' ({network[name].type}) cannot have scheme '{scheme}'")
            if not 1 <= rank <= max_ranks[name]:
                raise PlanError(f"{source}: layer '{name}' has rank {rank}; 1 to r_max = {max_ranks[name]} is allowed")


def read_plan(path: Path) -> RankPlan:
    """Read ``enc-caffe-ranks/1``; :class:`PlanError` names the field that is wrong."""
    data = read_json(Path(path), FORMAT, PlanError)
    ranks = data.get("ranks")
    if not isinstance(ranks, dict):
        raise PlanError(f"{path}: field 'ranks' must be an object of layer: rank")
    for name, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise PlanError(f"{path}: rank of layer '{name}' is {rank!r}; an integer is needed")
    schemes = data.get("schemes", {})
    if not isinstance(schemes, dict) or not all(isinstance(v, str) for v in schemes.values()):
        raise PlanError(f"{path}: field 'schemes' must be an object of layer: scheme name")
    about = {k: v for k, v in data.items() if k not in ("format", "network", "ranks", "schemes")}
    for name, value in about.items():
        check_finite(value, f"{path}: field '{name}'", PlanError)
    return RankPlan(str(data.get("network", "")), ranks, schemes, about)


def write_plan(path: Path, plan: RankPlan) -> None:
    """Write ``enc-caffe-ranks/1``."""
    data: dict[str, Any] = {"format": FORMAT, "network": plan.network, "ranks": dict(plan.ranks)}
    if plan.schemes:
        data["schemes"] = dict(plan.schemes)
    data.update({k: v for k, v in plan.about.items() if v is not None})
    write_json(Path(path), data)


def plan_about(
    method: str,
    metric: Optional[str],
    solver: Optional[str],
    flops_ratio: float,
    params_ratio: float,
    convention: str,
    counted: str,
    objective: Optional[float],
    proven_optimal: bool,
    search_seconds: float,
) -> dict[str, Any]:
    """The fields of METHOD section 10 in one place, so that no method forgets one."""
    return dict(locals())
