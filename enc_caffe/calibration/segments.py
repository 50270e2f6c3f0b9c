"""Runs of layers of a compressed network between blobs through which everything passes: what is fitted at once by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

from enc_caffe.caffe_io.describe import describe
from enc_caffe.decomposition import chain_of
from enc_caffe.form import Form
from enc_caffe.network import Made, Network

#: Decomposed layers of a run at least, where the network has cuts enough: one alone has its optimum in closed form.
LEAST = 2
#: Layers behind which a blob is as the layers that read it want it.
ACTIVATIONS = ("ReLU", "PReLU", "ELU", "BNLL", "Sigmoid", "TanH", "Swish", "Clip")


@dataclass(frozen=True)
class Segment:
    """A run of layers that one blob enters and one blob leaves.

    Attributes
    ----------
    first, stop : int
        Places in the compressed network: the run is layers ``first`` to ``stop - 1``.
    bottom, top : str
        The blob that enters, and the one that leaves; the original has them too.
    """

    first: int
    stop: int
    bottom: str
    top: str


def cuts(network: Network) -> dict[int, str]:
    """Places behind which one blob alone is read by later layers (or is the output), with that blob."""
    walk, last = network.walk, {}
    for at, layer in enumerate(network.layers):
        for made in walk.bottoms[layer.name]:
            last[made] = at
    found: dict[int, str] = {}
    live: set[Made] = set()
    for at, layer in enumerate(network.layers):
        live |= set(walk.tops[layer.name])
        # What nothing reads is an output.
        live = {made for made in live if last.get(made, len(network.layers)) > at}
        if len(live) == 1:
            found[at + 1] = next(iter(live))[0]
    return found


def segments(
    original: Network, compressed: Network, forms: Mapping[str, Form], chains: Mapping[str, Iterable[str]]
) -> list[Segment]:
    """The runs that are fitted, in order; layers in front of the first decomposed one and behind the last run are in none.

    Parameters
    ----------
    original, compressed : Network
        Both in the TEST phase, without losses.
    forms : mapping of layer to Form
        Decomposed layers of the original.
    chains : mapping of layer to names
        The layers that stand for each of them in the compressed network.
    """
    stages = {name for own in forms for name in chains[own]}
    ends = _common(original, compressed)
    found: list[Segment] = []
    begin, inside = None, set[str]()
    places = sorted(ends)
    for place, following in zip(places, [*places[1:], len(compressed.layers)]):
        own = {x.name for x in compressed.layers[place:following]}
        if begin is None:
            if own & stages:
                begin = place
            else:
                continue
        inside |= own & stages
        whole = sum(all(name in inside for name in chains[layer]) for layer in forms)
        if whole >= LEAST and following in ends:
            found.append(Segment(begin, following, ends[begin], ends[following]))
            begin, inside = None, set()
    if begin is not None and inside:
        end = max(place for place in ends)
        if end > begin:
            found.append(Segment(begin, end, ends[begin], ends[end]))
    return found


def held_blobs(original: Network, compressed: Network, runs: Sequence[Segment]) -> tuple[str, ...]:
    """What a fit of all runs together holds to the original's, in order: the blob behind each of them, and the activations inside, which
    both networks have in one size. The last run's is the last.

    Blobs in front of an activation are not held: ResNet-56 came less near on other images with those of its convolutions than without.
    """
    tops, known = {run.top for run in runs}, activations(original)
    last = {top: at for at, layer in enumerate(compressed.layers) for top in layer.tops}
    same = {b for b in activations(compressed) if b in known and original.shape_of(b) == compressed.shape_of(b)}
    inside = range(runs[0].first, runs[-1].stop) if runs else range(0)
    return tuple(
        blob for blob, at in sorted(last.items(), key=lambda own: own[1]) if at in inside and blob in tops | same
    )


def activations(network: Network) -> set[str]:
    """Blobs that an activation made or changed last and that are not only joined with others, which are held where they are joined."""
    walk, found = network.walk, dict[str, bool]()
    for layer in network.layers:
        for top in layer.tops:
            joined = layer.type == "Concat" and all(found.get(bottom, False) for bottom in layer.bottoms)
            kept = layer.type == "Dropout" and found.get(layer.bottoms[0], False)
            found[top] = layer.type in ACTIVATIONS or joined or kept
    read = {blob: [x.type for x in readers] for (blob, _), readers in walk.readers.items()}
    return {blob for blob, own in found.items() if own and (blob not in read or set(read[blob]) != {"Concat"})}


def segments_of(original: Network, compressed: Network, network: Network, forms: Mapping[str, Form]) -> list[Segment]:
    """The runs between two networks of :func:`up_to`; ``network`` is the description that the forms are of."""
    chains = {n: [n + stage.suffix for stage in chain_of(network[n], f).stages] for n, f in forms.items()}
    return segments(original, compressed, forms, chains)


def up_to(net: Any, scores: str) -> Network:
    """A deploy network up to its scores, described."""
    own = type(net)()
    own.CopyFrom(net)
    del own.layer[max(at for at, layer in enumerate(own.layer) if scores in layer.top) + 1 :]
    return describe(own, None, "the network up to its scores")


def _common(original: Network, compressed: Network) -> dict[int, str]:
    """Cuts of the compressed network whose blob, of the same size, is a cut of the original; of one blob the last place."""
    known = {blob: original.shape_of(blob) for blob in cuts(original).values()}
    last = {blob: place for place, blob in cuts(compressed).items() if blob in known}
    return {place: blob for blob, place in last.items() if compressed.shape_of(blob) == known[blob]}
