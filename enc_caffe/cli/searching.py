"""What a search looks for, as the flags have it."""

from __future__ import annotations

import argparse
from typing import Optional

from enc_caffe.decomposition.policy import with_rule
from enc_caffe.form import Schemes
from enc_caffe.metrics.latency import LatencyTable, read_latency
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import OWN


def schemes_of(args: argparse.Namespace) -> Schemes:
    """What ``--schemes`` and ``--prune_by`` let a layer become."""
    return with_rule(args.schemes, args.prune_by) if args.prune_by else args.schemes


def search_options(args: argparse.Namespace) -> SearchOptions:
    """What the arguments of :func:`add_search` ask for; of a sweep the first target."""
    flops = args.target_flops[0] if isinstance(args.target_flops, list) else args.target_flops
    return SearchOptions(
        method=args.method, metric=args.metric, target_flops=flops, target_params=args.target_params,
        target_latency=args.target_latency, target_accuracy=args.target_accuracy, first_layer=args.first_layer,
        floor=args.floor, convention=args.convention, multiple_of=args.multiple_of,
        bounds={name: (low, high) for name, low, high in args.bounds}, whole=frozenset(args.whole), preset=args.preset,
        solver=args.search_solver, space_margin=args.space_margin, complexity_margin=args.complexity_margin,
        density=args.density, candidates=args.candidates, groups=args.groups, seed=args.seed, schemes=schemes_of(args),
        count=args.count, **{name: getattr(args, name) for name in OWN},
    )  # fmt: skip


def times_of(args: argparse.Namespace) -> Optional[LatencyTable]:
    """The times of the file of ``--latency``, where there is one."""
    return read_latency(args.latency) if args.latency else None
