"""Everything that can be set for a rank search, and the two presets of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Optional

from enc_caffe.errors import UsageError
from enc_caffe.form import CONVENTIONS, PAPER, Schemes
from enc_caffe.search import own
from enc_caffe.search.names import COUNTS

FIRST_LAYER = ("keep", "half", "search")
PRODUCTS = ("pca", "measured", "divergence", "loss", "output", "fisher", "fisher+measured")
METRICS = (*PRODUCTS, "combined")
PRESETS = ("budget", "paper", "published")
SOLVERS = ("exact", "space")
RESOURCES = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}
FLAGS = {"macs": "--target_flops", "parameters": "--target_params", "latency": "--target_latency"}
#: A network with at most so many searched layers is searched with the authors' settings for VGG-16, a deeper one with
#: those for ResNet-56.
SHALLOW = 20


@dataclass(frozen=True)
class SearchOptions:
    """What to search for, within what, and how.

    Attributes
    ----------
    method : str
        A name in :data:`enc_caffe.search.methods.METHODS`.
    metric : {'pca', 'measured', 'combined', 'divergence', 'loss', 'output', 'fisher', 'fisher+measured'}
        A_p (Eq. 7), A_m (Eq. 6), A_c (Eq. 8), or exp(-sum) of a measured divergence or loss, of the part of their outputs'
        power that the layers lose, or of the divergences that gradients predict (and measurements correct).
    target_flops, target_params, target_latency : float, optional
        Budgets as parts of what the counted layers cost whole; several hold together.
    target_accuracy : float, optional
        Least complexity whose predicted (or evaluated) accuracy reaches this.
    first_layer : {'keep', 'half', 'search'}, optional
        The layer that reads the data stays whole (default with the paper's schemes), is fixed at half its r_max, or is
        searched like the others (default with other schemes).
    floor : float
        Lowest rank as a part of r_max.
    convention : {'paper', 'exact'}, optional
        How MACs are counted; default: exact where the whole network is counted, else the paper's.
    multiple_of : int
        Ranks are multiples of this (of one group).
    bounds : mapping of layer to (lowest or None, highest or None)
    whole : frozenset of str
        Layers that stay whole.
    preset : {'budget', 'paper', 'published'}
        ``budget``: never above the budget. ``paper``: the paper's text. ``published``: the details of the authors' runs
        (METHOD sections 5 and 6).
    solver : {'exact', 'space'}
        For ENC-Model and ENC-Inf: all integer ranks, or the paper's candidate space.
    space_margin, complexity_margin, density : float, optional
        delta_s (part of C_orig), delta_m (part of C_t; of C(R_max) - C_t by ``published``) and delta_d; default: the
        preset's.
    candidates : int, optional
        N of ENC-Inf and of the random search; default 50 up to 10 searched layers, else 20.
    groups : bool
        Search consecutive layers of equal cost by their summed rank.
    seed : int
    schemes : str or tuple of str
        What each layer may become: the paper's scheme (``paper``), any (``all``), or schemes by name.
    count : {'all', 'paper'}, optional
        What targets of MACs and parameters are parts of: the whole network, or the layers that can be decomposed, in the
        paper's convention. Default: the network where its costs are known, but the paper's count with the presets
        ``paper`` and ``published``.
    episodes, exploration, noise, noise_decay : optional
        Of ``adc`` and ``amc``: how its agent learns.
    step, boundary, shortlist : optional
        Of ``ars``: how its steps go.
    tilt : float, optional
        Of ``heuristic``. All of these: :data:`enc_caffe.search.own.OWN`.
    """

    method: str = "map"
    metric: str = "pca"
    target_flops: Optional[float] = None
    target_params: Optional[float] = None
    target_latency: Optional[float] = None
    target_accuracy: Optional[float] = None
    first_layer: Optional[str] = None
    floor: float = 0.1
    convention: Optional[str] = None
    multiple_of: int = 1
    bounds: Mapping[str, tuple[Optional[int], Optional[int]]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    preset: str = "budget"
    solver: str = "exact"
    space_margin: Optional[float] = None
    complexity_margin: Optional[float] = None
    density: Optional[float] = None
    candidates: Optional[int] = None
    groups: bool = True
    seed: int = 0
    schemes: Schemes = PAPER
    count: Optional[str] = None
    episodes: Optional[int] = None
    exploration: Optional[int] = None
    noise: Optional[float] = None
    noise_decay: Optional[float] = None
    step: Optional[float] = None
    boundary: Optional[float] = None
    shortlist: Optional[int] = None
    tilt: Optional[float] = None

    def __post_init__(self) -> None:
        words: tuple[tuple[Optional[str], tuple[Optional[str], ...], str], ...] = (
            (self.metric, METRICS, "--metric"), (self.first_layer, (None, *FIRST_LAYER), "--first_layer"),
            (self.preset, PRESETS, "--preset"), (self.solver, SOLVERS, "--solver"),
            (self.convention, (None, *CONVENTIONS), "--convention"), (self.count, (None, *COUNTS), "--count"),
        )  # fmt: skip
        for value, known, flag in words:
            if value not in known:
                raise UsageError(f"{flag} {value}: known are {', '.join(k for k in known if k)}")
        for flag, part in self.targets.items():
            if not 0 < part <= 1:
                raise UsageError(f"{FLAGS[flag]} {part}: a part of the original {RESOURCES[flag]} in (0, 1] is needed")
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise UsageError(f"--target_accuracy {self.target_accuracy}: a number in (0, 1] is needed")
        if self.method in own.UNBUDGETED and self.target_accuracy is not None:
            raise UsageError(
                f"--target_accuracy {self.target_accuracy}: --method {self.method} makes one network, whatever is asked for"
            )
        if not self.targets and self.target_accuracy is None and self.method not in own.UNBUDGETED:
            raise UsageError(f"no target: give {', '.join(FLAGS.values())} or --target_accuracy")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"--floor {self.floor}: a part of r_max between 0 and 1 is needed")
        for flag, number in (("--multiple_of", self.multiple_of), ("--candidates", self.candidates)):
            if number is not None and number < 1:
                raise UsageError(f"{flag} {number}: an integer of 1 or more is needed")
        for flag, value_ in (
            ("--space_margin", self.space_margin), ("--complexity_margin", self.complexity_margin), ("--density", self.density),
        ):  # fmt: skip
            if value_ is not None and not 0 < value_ <= 1:
                raise UsageError(f"{flag} {value_}: a number in (0, 1] is needed")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: a whole number of 0 or more is needed")
        own.check(self.method, self._own)

    @property
    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in own.OWN}

    def own(self, name: str) -> float:
        """A setting of the method's own: as given, else its default."""
        return own.value_of(name, self._own)

    @property
    def first_layer_is(self) -> str:
        """What becomes of the layer that reads the data."""
        return self.first_layer or ("keep" if self.schemes == PAPER else "search")

    @property
    def counts_all(self) -> bool:
        """Whether the whole network counts, where its costs are known."""
        return (self.count or ("paper" if self.preset in ("paper", "published") else "all")) == "all"

    @property
    def targets(self) -> dict[str, float]:
        """Budgets by resource, as parts of the original."""
        named = {"macs": self.target_flops, "parameters": self.target_params, "latency": self.target_latency}
        return {name: value for name, value in named.items() if value is not None}

    def at(self, resource: str, part: float) -> SearchOptions:
        """The same with another budget of one resource."""
        changes: dict[str, Any] = {FLAGS[resource].lstrip("-"): part}
        return replace(self, **changes)


@dataclass(frozen=True)
class SpaceSettings:
    """Numbers of the candidate space (METHOD section 6) with the preset's defaults filled in."""

    space_margin: float
    complexity_margin: float
    density: float
    of_offset: bool
    subtract_fixed: bool
    candidates: int


def space_settings(options: SearchOptions, layers: int) -> SpaceSettings:
    """The preset's numbers where the options do not say otherwise.

    ``published`` has the authors' settings: space margin 0.10 and density 0.095 for VGG-16, 0.05 and 0.4 for ResNet-56;
    the complexity margin is a part of C(R_max) - C_t, and what the fixed layers cost is not subtracted from the target
    that gives R_max and R_min. Both other presets take the paper's margins and densities (its section VI): 0.25 up to 10
    searched layers (AlexNet), 0.21 up to 20 (VGG-16), 0.7 beyond (ResNet-56).
    """
    shallow = layers <= SHALLOW
    published = options.preset == "published"
    margin = 0.05 if published and not shallow else 0.10
    if published:
        density = 0.095 if shallow else 0.4
    else:
        density = 0.25 if layers <= 10 else 0.21 if shallow else 0.7
    return SpaceSettings(
        options.space_margin or margin,
        options.complexity_margin or 0.005,
        options.density or density,
        of_offset=published,
        subtract_fixed=not published,
        candidates=options.candidates or (50 if layers <= 10 else 20),
    )
