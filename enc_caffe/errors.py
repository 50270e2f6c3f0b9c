"""The one exception family of the toolkit.

Every error a user can cause is an :class:`EncError`; the command line turns it into one or two lines on
standard error and an exit status. A message states the rule, where it was broken (file, layer), both values,
and what to do.
"""

from __future__ import annotations


class EncError(Exception):
    """Base of all errors that a user can cause or meet; exit status 1."""

    exit_status = 1


class UsageError(EncError):
    """The words of a command line or the arguments of a call do not fit together; exit status 2."""

    exit_status = 2


class PrototxtError(EncError):
    """A prototxt cannot be read, or describes no legal network."""


class WeightsError(EncError):
    """A caffemodel cannot be read, or does not fit its prototxt."""


class NetworkError(EncError):
    """A network breaks one of Caffe's rules (shapes, bottoms, tops, cycles)."""


class PlanError(EncError):
    """A rank plan does not fit the network it is meant for."""


class MetricsError(EncError):
    """A metrics file or table is incomplete, inconsistent, or of an unknown version."""


class InfeasibleError(EncError):
    """No rank configuration satisfies the constraints."""


class DatasetError(EncError):
    """An LMDB or an image source is missing, empty, or does not fit the network."""


class OutputError(EncError):
    """An output exists already or cannot be written."""


class CaffeError(EncError):
    """Caffe itself stopped: the message carries its own last line."""


class CaffeNotFoundError(EncError):
    """No usable Caffe: ``make caffe`` builds one."""
