"""Removes whole channels from trained ONNX networks: runs the program ``onnx-prune`` and parses its reports.

>>> import onnx_prune
>>> report = onnx_prune.prune("model.onnx", target_macs=0.5, data=images)   # doctest: +SKIP
>>> report.path, report.macs_ratio                                          # doctest: +SKIP
(PosixPath('model.pruned.onnx'), 0.498)
"""

from __future__ import annotations

from ._commands import bench, check, data, diff, inspect, merge, prune, runtimes, sensitivity, sweep, train, version
from ._errors import GateError, Interrupted, OnnxPruneError, ProgramNotFoundError, UsageError
from ._reports import (
    BenchReport,
    CheckReport,
    DataReport,
    DiffReport,
    InspectReport,
    PruneReport,
    Report,
    SensitivityReport,
    SweepReport,
    TrainReport,
)
from ._run import find_program

__all__ = [
    "BenchReport",
    "CheckReport",
    "DataReport",
    "DiffReport",
    "GateError",
    "InspectReport",
    "Interrupted",
    "OnnxPruneError",
    "ProgramNotFoundError",
    "PruneReport",
    "Report",
    "SensitivityReport",
    "SweepReport",
    "TrainReport",
    "UsageError",
    "bench",
    "check",
    "data",
    "diff",
    "find_program",
    "inspect",
    "merge",
    "prune",
    "runtimes",
    "sensitivity",
    "sweep",
    "train",
    "version",
]
