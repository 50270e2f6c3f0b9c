"""How Caffe's learning rate goes from the first iteration to the last, in fewer iterations.

Source: ``GetLearningRate`` of ``sgd_solver.cpp`` in BVLC Caffe.
"""

from __future__ import annotations

import math
from typing import Any

#: Of a float's exponent, base e.
_MOST = 80.0


def in_short(solver: Any, steps: int) -> dict[str, Any]:
    """Fields of a solver whose rate goes in ``steps`` iterations as it does in the whole training.

    Parameters
    ----------
    solver : SolverParameter
        With the ``max_iter`` of the whole training.

    Returns
    -------
    fields : dict of field to value
        Steps keep their parts of the training, to a whole iteration, each at iteration 1 at the earliest; where that moves those of ``step``,
        each is as much higher. ``poly`` ends at ``max_iter`` by itself, and ``fixed`` changes nothing.
    """
    part = steps / max(1, int(solver.max_iter))
    fields: dict[str, Any] = {"max_iter": steps, "snapshot": steps}
    if solver.lr_policy in ("step", "sigmoid"):
        fields["stepsize"] = max(1, round(solver.stepsize * part))
    if solver.lr_policy in ("inv", "sigmoid"):
        fields["gamma"] = solver.gamma / part
    if solver.lr_policy == "step" and solver.stepsize:
        fields["gamma"] = _power(solver.gamma, fields["stepsize"] / (solver.stepsize * part))
    if solver.lr_policy == "exp":
        fields["gamma"] = _power(solver.gamma, 1 / part)
    if solver.lr_policy == "multistep":
        fields["stepvalue"] = [max(1, round(at * part)) for at in solver.stepvalue]
    return fields


def _power(gamma: float, exponent: float) -> float:
    return math.exp(min(_MOST, exponent * math.log(gamma))) if gamma > 0 else gamma
