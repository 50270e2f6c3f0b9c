"""How long workers may be silent, and how much memory they may take, where nobody says otherwise."""

from __future__ import annotations

#: Seconds without any sign of life after which workers are taken to hang; one is given for every batch
#: (:func:`enc_caffe.workers.executor.beat`).
LIMIT = 3600.0
#: Default of ``--memory``: what all workers together may take beyond the weights.
MEMORY = 2 * 2**30
