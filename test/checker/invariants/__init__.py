"""What must hold.  Each module has TITLE and check(history), which yields a line per violation."""

from . import (aborted, acknowledged, atomic, epochs, errors, keys, lost, notifications, positions, readers,
               real_time, twice)

ALL = [lost, aborted, atomic, positions, real_time, keys, readers, twice, notifications, epochs, acknowledged,
       errors]


def name(invariant):
    return invariant.__name__.rpartition(".")[2]
