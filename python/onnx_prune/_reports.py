"""What commands answer: the parsed JSON, and by name what is wanted most. ``schemas/`` in the repository has every key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar, cast

_T = TypeVar("_T")


def _share(part: Optional[float], whole: Optional[float]) -> Optional[float]:
    return part / whole if part is not None and whole else None


def _percent(share: Optional[float]) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


class Report:
    """A JSON document that the program printed. ``report["key"]`` is ``report.data["key"]``."""

    def __init__(self, data: dict[str, Any], command: Sequence[str] = (), warnings: Sequence[str] = ()) -> None:
        #: The whole document.
        self.data = data
        #: The command that it came from, temporary files included.
        self.command: tuple[str, ...] = tuple(command)
        #: What the program warned of.
        self.warnings: tuple[str, ...] = tuple(warnings)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __contains__(self, key: object) -> bool:
        return key in self.data

    @property
    def schema_version(self) -> int:
        """It grows when a key changes its meaning or goes away."""
        return int(self.data["schema_version"])

    @property
    def tool(self) -> str:
        """Name and version of the program."""
        return str(self.data["tool"])

    @property
    def notes(self) -> list[str]:
        """What a user should know."""
        return list(self.data.get("notes") or [])

    def _summary(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._summary()) or self.tool}>"


class _Judged(Report):
    """A report that may have limits."""

    @property
    def gates(self) -> list[dict[str, Any]]:
        """Every limit: ``name, limit, value, passed, inconclusive, words``."""
        return list(self.data.get("gates") or [])

    @property
    def passed(self) -> Optional[bool]:
        """Whether all limits are kept; ``None`` where none was set."""
        gates = self.gates
        return all(bool(gate.get("passed", gate.get("kept"))) for gate in gates) if gates else None

    def _verdict(self) -> list[str]:
        return {None: [], True: ["passed"], False: ["limits broken"]}[self.passed]


class PruneReport(_Judged):
    """What pruning came to."""

    @property
    def path(self) -> Optional[Path]:
        """The pruned model; ``None`` where none was written (a dry run, a broken limit)."""
        path = self.data["pruned"]["path"]
        return Path(path) if path else None

    @property
    def macs_before(self) -> int:
        """Multiply-accumulates of the original, for one sample."""
        return int(self.data["original"]["macs"])

    @property
    def macs_after(self) -> int:
        """Multiply-accumulates of the pruned model, for one sample."""
        return int(self.data["pruned"]["macs"])

    @property
    def params_before(self) -> int:
        """Parameters of the original."""
        return int(self.data["original"]["params"])

    @property
    def params_after(self) -> int:
        """Parameters of the pruned model."""
        return int(self.data["pruned"]["params"])

    @property
    def bytes_before(self) -> int:
        """Bytes of the original on disk."""
        return int(self.data["original"]["bytes"])

    @property
    def bytes_after(self) -> int:
        """Bytes of the pruned model on disk; 0 where none was written."""
        return int(self.data["pruned"]["bytes"])

    @property
    def macs_ratio(self) -> Optional[float]:
        """The share of the multiply-accumulates that stays."""
        return _share(self.macs_after, self.macs_before)

    @property
    def params_ratio(self) -> Optional[float]:
        """The share of the parameters that stays."""
        return _share(self.params_after, self.params_before)

    @property
    def channels_removed(self) -> int:
        """Channels that went."""
        return int(self.data["channels_removed"])

    @property
    def channels_prunable(self) -> int:
        """Channels that could go."""
        return int(self.data["channels_prunable"])

    @property
    def missed(self) -> Optional[str]:
        """By how much the budget was missed and why; ``None`` where it was reached."""
        return cast(Optional[str], self.data["missed"])

    @property
    def max_rel_diff(self) -> Optional[float]:
        """Largest relative difference from the masked original on random input; ``None`` where nothing was compared."""
        return cast(Optional[float], self.data["verify"].get("max_rel_diff"))

    @property
    def accuracy_before(self) -> Optional[float]:
        """The original's figure of the metric, where accuracy was measured."""
        return self._accuracy("original")

    @property
    def accuracy_after(self) -> Optional[float]:
        """The pruned model's figure of the metric, where accuracy was measured."""
        return self._accuracy("pruned")

    @property
    def drop(self) -> Optional[float]:
        """How many points worse it is, where accuracy was measured."""
        return self._accuracy("drop")

    def _accuracy(self, key: str) -> Optional[float]:
        return cast(Optional[float], (self.data.get("accuracy") or {}).get(key))

    def _summary(self) -> list[str]:
        dropped = [] if self.drop is None else [f"drop {self.drop:.2f} points"]
        return [
            "no model written" if self.path is None else str(self.path),
            f"MACs {self.macs_before} → {self.macs_after} ({_percent(self.macs_ratio)})",
            f"parameters {self.params_before} → {self.params_after} ({_percent(self.params_ratio)})",
            *dropped,
            *self._verdict(),
        ]


class InspectReport(Report):
    """What is in models (or, with ``summary`` or ``why``, the document of that option)."""

    @property
    def models(self) -> list[dict[str, Any]]:
        """One for each file, with ``path, macs, params, prunable_macs, prunable_channels, groups, pins, …``."""
        return list(self.data.get("models") or [])

    def _first(self, key: str, kind: type[_T]) -> _T:
        if not self.models:
            raise KeyError(f"{key}: this report has no models; its keys are {', '.join(self.data)}")
        return kind(self.models[0][key])  # type: ignore[call-arg]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the first model, for one sample."""
        return self._first("macs", int)

    @property
    def params(self) -> int:
        """Parameters of the first model."""
        return self._first("params", int)

    @property
    def prunable_macs(self) -> float:
        """The share of the first model's multiply-accumulates in layers that can lose channels."""
        return self._first("prunable_macs", float)

    @property
    def prunable_channels(self) -> int:
        """Channels of the first model that can go."""
        return self._first("prunable_channels", int)

    def _summary(self) -> list[str]:
        return [str(model.get("path")) for model in self.models]


class DiffReport(_Judged):
    """How two models differ on data."""

    @property
    def metric(self) -> Optional[str]:
        """The primary metric; ``None`` where no metric fits the outputs."""
        return cast(Optional[str], self.data["primary"])

    @property
    def accuracy(self) -> dict[str, dict[str, Any]]:
        """From each metric's name to ``original, pruned, difference, interval, drop, verdict, …``."""
        return dict(self.data["accuracy"])

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.data["samples"])

    @property
    def accuracy_before(self) -> Optional[float]:
        """The original's figure of the primary metric; shares are from 0 to 1."""
        return self._primary("original")

    @property
    def accuracy_after(self) -> Optional[float]:
        """The pruned model's figure of the primary metric."""
        return self._primary("pruned")

    @property
    def drop(self) -> Optional[float]:
        """How many points worse the pruned model is."""
        return self._primary("drop")

    @property
    def verdict(self) -> Optional[str]:
        """With labels, by McNemar's test: ``no-change``, ``within-noise``, ``worse`` or ``better``."""
        return cast(Optional[str], self.accuracy.get(self.metric or "", {}).get("verdict"))

    @property
    def identical(self) -> bool:
        """Every sample has exactly the same outputs."""
        return bool(self.data["identical"])

    def _primary(self, key: str) -> Optional[float]:
        return cast(Optional[float], self.accuracy.get(self.metric or "", {}).get(key))

    def _summary(self) -> list[str]:
        figures = [f"{self.metric} {self.accuracy_before} → {self.accuracy_after}"] if self.metric else []
        return [*figures, f"{self.samples} samples", *self._verdict()]


class BenchReport(_Judged):
    """How fast models are."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each model, batch and number of threads, with times in milliseconds and ``comparison``."""
        return list(self.data["rows"])

    @property
    def advice(self) -> list[str]:
        """What makes the figures doubtful."""
        return list(self.data["advice"])

    @property
    def median_ms(self) -> list[Optional[float]]:
        """Median milliseconds of one run of each model, with the first batch and number of threads."""
        first = self.rows[0]
        same = [row for row in self.rows if (row["batch"], row["threads"]) == (first["batch"], first["threads"])]
        return [row["median_ms"] for row in same]

    @property
    def ratio(self) -> Optional[float]:
        """The second model's time over the first one's (below 1 is faster); ``None`` for one model."""
        compared = [row["comparison"] for row in self.rows if row["comparison"]]
        return compared[0]["ratio"] if compared else None

    @property
    def speedup(self) -> Optional[float]:
        """How many times as fast the second model is."""
        return _share(1.0, self.ratio)

    def _summary(self) -> list[str]:
        times = [f"{model['path']}: {'?' if ms is None else f'{ms:.4g}'} ms" for model, ms in zip(self["models"], self.median_ms)]
        speedup = [] if self.speedup is None else [f"{self.speedup:.2f} times as fast"]
        return [*times, *speedup, *self._verdict()]


class CheckReport(_Judged):
    """Whether a smaller model may ship."""

    def _summary(self) -> list[str]:
        return [*self._verdict(), *(str(gate["words"]) for gate in self.gates)]


class TrainReport(Report):
    """What training came to."""

    @property
    def path(self) -> Optional[Path]:
        """The trained model; ``None`` where none was written."""
        path = self.data["written"]
        return Path(path) if path else None

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """What came of each epoch: ``epoch, lr, loss, held, seconds, …``."""
        return list(self.data["epochs"])

    @property
    def best_epoch(self) -> Optional[int]:
        """The epoch whose parameters were kept; 0 for those from before the first step."""
        return cast(Optional[int], self.data["best_epoch"])

    @property
    def loss_before(self) -> Optional[float]:
        """The loss on held-back samples before the first step; ``None`` where none were held back."""
        return cast(Optional[float], (self.data["before"] or {}).get("loss"))

    @property
    def loss_after(self) -> Optional[float]:
        """The loss on held-back samples of the state that was kept; ``None`` where none were held back."""
        kept = [epoch for epoch in self.epochs if epoch["epoch"] == self.best_epoch]
        return cast(Optional[float], (kept[0]["held"] or {}).get("loss")) if kept else self.loss_before

    def _summary(self) -> list[str]:
        loss = [] if self.loss_before is None else [f"held-back loss {self.loss_before:.4g} → {self.loss_after:.4g}"]
        return ["no model written" if self.path is None else str(self.path), f"{len(self.epochs)} epochs", *loss]


class SensitivityReport(Report):
    """What channel groups are worth."""

    @property
    def groups(self) -> list[dict[str, Any]]:
        """One curve for each group: ``groups, layers, channels, points``."""
        return list(self.data["groups"])

    def _summary(self) -> list[str]:
        return [str(self.data["model"]), f"{len(self.groups)} groups"]


class SweepReport(Report):
    """What a sweep found."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each combination, with the columns of ``results.csv``."""
        return list(self.data["rows"])

    @property
    def best(self) -> list[dict[str, Any]]:
        """The rows that no other of their model beats in both accuracy and multiply-accumulates, or in both accuracy and time."""
        return [row for row in self.rows if row["best_by_macs"] or row["best_by_time"]]

    def _summary(self) -> list[str]:
        done = sum(row["status"] == "done" for row in self.rows)
        return [f"{done} of {len(self.rows)} rows done", f"{len(self.best)} best"]


class DataReport(Report):
    """Data as a model would get it."""

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.data["samples"])

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Each input: ``name, type, shape`` and ``channels`` with ``mean, std, min, max``."""
        return list(self.data["inputs"])

    def _summary(self) -> list[str]:
        return [f"{self.samples} samples", *(f"{i['name']} {i['type']}{i['shape']}" for i in self.inputs)]
