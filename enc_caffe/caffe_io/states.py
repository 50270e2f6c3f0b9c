"""Levels and stages under which a network is trained and tested: which state brings a phase its images, and a network without states."""

from __future__ import annotations

from typing import Any, Optional

from enc_caffe.caffe_io.describe import in_phase, reads_data, set_state
from enc_caffe.caffe_io.proto import caffe_pb2

#: Level and stages, as ``caffe -level -stage`` and a solver's ``train_state`` and ``test_state`` give them.
State = tuple[int, tuple[str, ...]]
#: What Caffe takes where nothing is given.
NONE: State = (0, ())


def staged(net: Any, state: Any) -> Any:
    """A copy of a network with a solver's NetState (None: its own alone); the network keeps its own."""
    out = type(net)()
    out.CopyFrom(net)
    return out if state is None else set_state(out, state.level, state.stage)


def training_state(net: Any, chosen: State) -> State:
    """Level and stages under which the TRAIN phase has images, as far as the network has any for it.

    Parameters
    ----------
    net : NetParameter
        Without the level and the stages of flags.
    chosen : level and stages
        Those that the network was looked at, and is tested, under.

    Notes
    -----
    A layer of DIGITS is chosen by its stage alone, in whatever phase: the stages of the test images would train on these, so another
    data layer's stages take their place. Whatever else was chosen holds for the training too.
    """
    tests = _data(net, "TEST", chosen)
    of_tests = {stage for at in tests for rule in net.layer[at].include for stage in rule.stage}
    # A stage without images is one to deploy by, which has no loss.
    if tests and not of_tests and _data(net, "TRAIN", chosen):
        # The same data layers without stages serve both.
        return chosen
    level, stages = chosen[0], tuple(s for s in chosen[1] if tests and s not in of_tests)
    named = _named(net, "TRAIN")
    swapped = [(max(level, low), (*stages, *(s for s in own if s not in stages))) for low, own in named]
    wanted = (chosen, (level, stages), NONE, *swapped, *named)
    others = (s for s in wanted if _data(net, "TRAIN", s) - tests)
    return next(others, chosen if _data(net, "TRAIN", chosen) else NONE)


def put_states(solver: Any, net: Any, chosen: State) -> str:
    """Give a solver that has none of its own a chosen state for testing, and one for training (:func:`training_state`).

    Returns
    -------
    str
        In words which, where the training has another one than was chosen and a data layer decided it.
    """
    train = training_state(net, chosen)
    if not solver.test_state:
        solver.test_state.add(level=chosen[0], stage=chosen[1])
    if train != NONE and not solver.HasField("train_state"):
        solver.train_state.level = train[0]
        solver.train_state.stage.extend(train[1])
        own = sorted(_data(net, "TRAIN", train) - _data(net, "TEST", chosen))
        if train != chosen and own:
            return f"train_state has {_words(train)}, by which layer '{net.layer[own[0]].name}' brings images, in place of {_words(chosen)}"
    return ""


def _words(state: State) -> str:
    return f"stage {','.join(state[1]) or 'none'}" + (f", level {state[0]}" if state[0] else "")


def _data(net: Any, phase: str, state: State) -> set[int]:
    """Numbers of the data layers that a phase has under a state."""
    level, stages = max(state[0], net.state.level), (*net.state.stage, *state[1])
    return {at for at, x in enumerate(net.layer) if reads_data(x) and in_phase(x, phase, level, stages)}


def _named(net: Any, phase: str) -> list[State]:
    """States that data layers name for a phase, in their order."""
    own = caffe_pb2().Phase.Value(phase)
    rules = [rule for x in net.layer if reads_data(x) for rule in x.include]
    return [(rule.min_level, tuple(rule.stage)) for rule in rules if not rule.HasField("phase") or rule.phase == own]


def by_phase(net: Any, solver: Any) -> Optional[tuple[Any, Any]]:
    """The same training without levels and stages: every layer of either phase says which, and the solver gives no state.

    Parameters
    ----------
    net : NetParameter
    solver : SolverParameter
        With one state for testing at most.

    Returns
    -------
    NetParameter and SolverParameter, or None where the solver gives none, or several test nets.
    """
    states = [s for s in (solver.train_state, *solver.test_state) if s.level or s.stage]
    if not states or len(solver.test_state) > 1:
        return None
    out, own = type(net)(), type(solver)()
    out.CopyFrom(net)
    own.CopyFrom(solver)
    own.ClearField("train_state")
    own.ClearField("test_state")
    out.ClearField("state")
    del out.layer[:]
    nets = {"TRAIN": staged(net, solver.train_state), "TEST": staged(net, next(iter(solver.test_state), None))}
    for layer in net.layer:
        phases = [p for p, x in nets.items() if in_phase(layer, p, x.state.level, tuple(x.state.stage))]
        if phases:
            kept = out.layer.add()
            kept.CopyFrom(layer)
            del kept.include[:], kept.exclude[:]
            if len(phases) == 1:
                kept.include.add(phase=caffe_pb2().Phase.Value(phases[0]))
    return out, own
