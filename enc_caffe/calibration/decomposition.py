"""What a decomposition minimises and puts right: the names of its kinds, as the flags have them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from enc_caffe.errors import UsageError

KINDS = ("svd", "weighted", "fisher", "asymmetric", "asymmetric_fisher", "asymmetric_relu")
#: What may be put right: ``bn`` estimates the statistics of BatchNorm layers again on the images, ``change`` corrects them
#: by how much they differ between both networks on the images, ``bias`` corrects the biases of pairs, ``auto`` takes what
#: measures best.
RECALIBRATE = ("bn", "change", "bias", "auto")
#: What is fitted by gradient steps in the end.
RECONSTRUCT = ("none", "blocks")
#: What ``auto`` chooses among, beside the biases.
ALTERNATIVES: tuple[frozenset[str], ...] = (frozenset(), frozenset({"change"}), frozenset({"bn"}))


@dataclass(frozen=True)
class Decomposition:
    """What factors minimise, and what is put right behind them.

    Attributes
    ----------
    kind : {'svd', 'weighted', 'fisher', 'asymmetric', 'asymmetric_fisher', 'asymmetric_relu'}
        The error of the weights, of the layer's output on the original's inputs, the same weighted by what changes of the
        outputs cost, or the error of its output on the inputs that come from the compressed layers before it, plain, weighted, or behind
        the ReLU where one follows ([16] of the paper; a constant beside every layer is part of it).
    recalibrate : frozenset of str
        Names of :data:`RECALIBRATE`.
    reconstruct : {'none', 'blocks'}
        Whether runs of layers are fitted to the original's blobs after that (:mod:`enc_caffe.calibration.blocks`).
    """

    kind: str = "svd"
    recalibrate: frozenset[str] = frozenset()
    reconstruct: str = "none"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"--decomposition {self.kind}: known are {', '.join(KINDS)}")
        unknown = sorted(self.recalibrate - set(RECALIBRATE))
        if unknown:
            raise UsageError(f"--recalibrate {','.join(unknown)}: known are {', '.join(RECALIBRATE)}")
        if self.reconstruct not in RECONSTRUCT:
            raise UsageError(f"--reconstruct {self.reconstruct}: known are {', '.join(RECONSTRUCT)}")
        if {"bn", "change"} <= self.recalibrate or ("auto" in self.recalibrate and len(self.recalibrate) > 1):
            raise UsageError(
                f"--recalibrate {','.join(sorted(self.recalibrate))}: bn and change exclude each other, and auto stands alone"
            )

    def alternatives(self) -> list[Decomposition]:
        """What ``auto`` stands for; else only this. Nothing is fitted by blocks yet."""
        plain = replace(self, reconstruct="none")
        if "auto" not in self.recalibrate:
            return [plain]
        return [replace(plain, recalibrate=frozenset({"bias"}) | norms) for norms in ALTERNATIVES]

    @property
    def asymmetric(self) -> bool:
        """Whether layers are solved for the inputs that come from the compressed ones before them."""
        return self.kind.startswith("asymmetric")

    @property
    def by_blocks(self) -> bool:
        """Whether runs of layers are fitted in the end."""
        return self.reconstruct == "blocks"

    @property
    def plain(self) -> bool:
        """Whether no image has a say."""
        return self.kind == "svd" and not self.recalibrate and not self.by_blocks

    def words(self) -> str:
        """For a person."""
        more = f", {' and '.join(sorted(self.recalibrate))} recalibrated" if self.recalibrate else ""
        return self.kind + more + (", fitted by blocks" if self.by_blocks else "")
