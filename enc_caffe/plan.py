"""Plans: what becomes of every layer and how that was decided; their JSON formats ``enc-caffe-ranks/2`` and ``/1``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping, Optional

from enc_caffe.errors import PlanError
from enc_caffe.files.jsonfile import check_finite, read_json, write_json
from enc_caffe.form import WHOLE, Form, parse_form

FORMAT, FORMAT_1 = "enc-caffe-ranks/2", "enc-caffe-ranks/1"


@dataclass(frozen=True)
class Provenance:
    """How a plan came to be; a field that is None is not known.

    Attributes
    ----------
    method, metric, solver, preset : str
        What chose, by which layer metric, how it solved, and by which details.
    among : str
        The schemes that each layer could have: ``paper``, ``all``, or a list.
    flops_ratio, params_ratio, latency_ratio : float
        Cost over that of the counted layers whole.
    convention, counted : str
        How MACs are counted, and of which layers.
    stride_placement : str
        Of the chains whose times chose: ``exact`` or ``published``.
    targets : mapping of resource to part of the whole
    objective : float
        A_p, A_m, A_c, or exp of minus a sum.
    proven_optimal : bool
    gap : float
        By how much the objective's logarithm could be larger at most.
    candidates, evaluated : int
        Plans that were chosen among, and evaluated as whole networks.
    search_seconds, accuracy : float
    refined : mapping
        What whole networks changed.
    note : str
    learning : mapping
        An agent's seed and schedule, and the accuracy of every episode.
    more : mapping
        Fields of a file that this version does not know.
    """

    method: Optional[str] = None
    metric: Optional[str] = None
    solver: Optional[str] = None
    preset: Optional[str] = None
    among: Optional[str] = None
    flops_ratio: Optional[float] = None
    params_ratio: Optional[float] = None
    latency_ratio: Optional[float] = None
    convention: Optional[str] = None
    counted: Optional[str] = None
    stride_placement: Optional[str] = None
    targets: Optional[Mapping[str, float]] = None
    objective: Optional[float] = None
    proven_optimal: Optional[bool] = None
    gap: Optional[float] = None
    candidates: Optional[int] = None
    evaluated: Optional[int] = None
    search_seconds: Optional[float] = None
    accuracy: Optional[float] = None
    refined: Optional[Mapping[str, Any]] = None
    note: Optional[str] = None
    learning: Optional[Mapping[str, Any]] = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def known(self) -> dict[str, Any]:
        """All fields that are known, by name."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        return {k: v for k, v in {**own, **self.more}.items() if v is not None}


NOTHING = Provenance()


@dataclass(frozen=True)
class Plan:
    """Forms of the layers to decompose; a layer that is absent stays whole.

    Attributes
    ----------
    network : str
    forms : mapping of layer name to Form
        Where a file of version 1 did not say the scheme it is empty, and the network's policy decides.
    about : Provenance
    """

    network: str
    forms: Mapping[str, Form]
    about: Provenance = NOTHING

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by layer where every form has one; else :class:`PlanError`."""
        found = {}
        for name, form in self.forms.items():
            if len(form.ranks) != 1 or form.inside:
                raise PlanError(f"layer '{name}' has form '{form}', which is not one rank")
            found[name] = form.ranks[0]
        return found


def read_plan(path: Path) -> Plan:
    """Read a plan of either version; :class:`PlanError` names the field that is wrong."""
    data = read_json(Path(path), (FORMAT, FORMAT_1), PlanError)
    known = {"format", "network"}
    if data["format"] == FORMAT_1:
        known |= {"ranks", "schemes"}
        forms = _forms_1(data, path)
    else:
        known |= {"forms"}
        stated = data.get("forms")
        if not isinstance(stated, dict):
            raise PlanError(f"{path}: field 'forms' must be an object of layer: form, such as spatial:12")
        forms = {n: parse_form(text, f"{path}: the form of layer '{n}'") for n, text in stated.items()}
    about = {k: v for k, v in data.items() if k not in known}
    for name, value in about.items():
        check_finite(value, f"{path}: field '{name}'", PlanError)
    return Plan(
        str(data.get("network", "")), {n: f for n, f in forms.items() if f != WHOLE}, _provenance(about, Path(path))
    )


#: What a field of a file must be.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("method", "metric", "solver", "preset", "among", "convention", "counted", "stride_placement", "note"), (str,)
    ),
    **dict.fromkeys(
        ("flops_ratio", "params_ratio", "latency_ratio", "objective", "gap", "search_seconds", "accuracy"), (int, float)
    ),
    **dict.fromkeys(("candidates", "evaluated"), (int,)),
    **dict.fromkeys(("targets", "refined", "learning"), (dict,)),
    "proven_optimal": (bool,),
}


def _provenance(about: Mapping[str, Any], path: Path) -> Provenance:
    own = {f.name for f in fields(Provenance)} - {"more"}
    for name, kinds in _KINDS.items():
        value = about.get(name)
        wrong = isinstance(value, bool) and bool not in kinds
        if value is not None and (wrong or not isinstance(value, kinds)):
            raise PlanError(
                f"{path}: field '{name}' is {str(value)[:80]!r}; {' or '.join(k.__name__ for k in kinds)} is needed"
            )
    return Provenance(
        **{k: v for k, v in about.items() if k in own}, more={k: v for k, v in about.items() if k not in own}
    )


def _forms_1(data: Mapping[str, Any], path: Path) -> dict[str, Form]:
    ranks = data.get("ranks")
    if not isinstance(ranks, dict):
        raise PlanError(f"{path}: field 'ranks' must be an object of layer: rank")
    schemes = data.get("schemes", {})
    if not isinstance(schemes, dict) or not all(isinstance(v, str) for v in schemes.values()):
        raise PlanError(f"{path}: field 'schemes' must be an object of layer: scheme name")
    for name, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise PlanError(f"{path}: rank of layer '{name}' is {rank!r}; an integer is needed")
    # Without a scheme the network's policy decides; so an empty one stands until the network is known.
    return {name: Form(schemes.get(name, ""), (rank,)) for name, rank in ranks.items()}


def write_plan(path: Path, plan: Plan, version: int = 2) -> None:
    """Write ``enc-caffe-ranks/2``, or ``/1`` where every form has one rank.

    Raises
    ------
    PlanError
        If version 1 cannot say some form, or version 2 would have to say a scheme that is not known.
    """
    if version == 1:
        try:
            ranks = plan.ranks
        except PlanError as exc:
            raise PlanError(f"{path}: {FORMAT_1} cannot say it: {exc}; write {FORMAT}") from None
        data: dict[str, Any] = {"format": FORMAT_1, "network": plan.network, "ranks": ranks}
        schemes = {n: f.scheme for n, f in plan.forms.items() if f.scheme}
        if schemes:
            data["schemes"] = schemes
    else:
        unsaid = next((n for n, f in plan.forms.items() if not f.scheme), None)
        if unsaid is not None:
            raise PlanError(
                f"{path}: layer '{unsaid}' has rank {plan.forms[unsaid].ranks[0]} of a scheme that is not said, which {FORMAT} must say; "
                f"hold the plan against its network first, or write {FORMAT_1}"
            )
        forms = {n: str(f) for n, f in plan.forms.items()}
        data = {"format": FORMAT, "network": plan.network, "forms": forms}
    for name, value in plan.about.known().items():
        # A file may have had a field that this version calls something else.
        data.setdefault(name, value)
    write_json(Path(path), data)
