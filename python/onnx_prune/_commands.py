"""The program's commands as functions.

Each takes the flags that are used most as parameters of its own, and every other flag of the command by its name, with ``_`` for
``-``: ``onnx-prune bench --io-binding on`` is ``bench(…, io_binding="on")``. ``onnx-prune COMMAND --help`` explains them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional, TypeVar, Union

from . import _reports as reports
from ._flags import Array, Data, Flag, StrPath, flags
from ._flags import samples as _samples
from ._run import run

_R = TypeVar("_R", bound=reports.Report)
_Numbers = Union[float, Sequence[float], str]
_Patterns = Union[str, Sequence[str]]
# What --format json also prints; the commands without --json have no other way.
_TAKEN = frozenset({"json", "format", "quiet"})


def _report(kind: type[_R], command: Sequence[str], files: Sequence[StrPath], form: str, options: Mapping[str, Any]) -> _R:
    taken = sorted(_TAKEN & options.keys())
    if taken:
        raise TypeError(f"{', '.join(taken)}: the result is taken from JSON on the standard output; leave it out")
    # After --, a file may be named like a flag or a command.
    result = run([*command, form, *flags(options), "--", *(os.fspath(file) for file in files)])
    data = result.data()
    report = None if data is None else kind(data, result.command, result.lines("warning:"))
    error = result.error(report)
    if error is not None:
        raise error
    if report is None:
        raise result.missing()
    return report


def prune(
    model: StrPath,
    *,
    ratio: Optional[float] = None,
    threshold: Optional[float] = None,
    target_macs: Optional[float] = None,
    target_params: Optional[float] = None,
    target_latency: Union[float, str, None] = None,
    plan: Optional[StrPath] = None,
    max_drop: Optional[float] = None,
    data: Optional[Data] = None,
    labels: Optional[Array] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    eval_data: Optional[Data] = None,
    eval_labels: Optional[Array] = None,
    output: Optional[StrPath] = None,
    criterion: Union[str, Mapping[str, float], None] = None,
    recover: Optional[str] = None,
    exclude: Optional[_Patterns] = None,
    only: Optional[_Patterns] = None,
    layer_ratio: Union[str, Sequence[str], Mapping[str, float], None] = None,
    round_to: Union[int, str, None] = None,
    finetune: Optional[int] = None,
    min_speedup: Optional[float] = None,
    max_macs: Optional[float] = None,
    verify: bool = True,
    dry_run: bool = False,
    save_plan: Optional[StrPath] = None,
    report: Union[StrPath, Sequence[StrPath], None] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    runtime: Optional[str] = None,
    device: Optional[str] = None,
    **more: Flag,
) -> reports.PruneReport:
    """Prunes a model and writes the smaller one.

    Exactly one budget is given: ``ratio`` (the share of the prunable channels that goes), ``threshold``, ``target_macs``,
    ``target_params`` or ``target_latency`` (the share that stays; ``"5ms"`` for a latency), or a stored ``plan``; or none, where
    ``max_drop`` says how many points the result may be worse. ``data`` is a path, an array with samples along its first axis, or a
    dict of such arrays by input; ``labels`` go with arrays. ``output`` is ``<stem>.pruned.onnx`` beside the model by default.

    Raises ``UsageError`` for bad input, ``GateError`` where a limit is broken (no model is written; the error has the report).
    """
    options: dict[str, Any] = dict(
        ratio=ratio, threshold=threshold, target_macs=target_macs, target_params=target_params, target_latency=target_latency,
        plan=plan, max_drop=max_drop, samples=samples, mean=mean, std=std, output=output, criterion=criterion, recover=recover,
        exclude=exclude, only=only, layer_ratio=layer_ratio, round_to=round_to, finetune=finetune, min_speedup=min_speedup,
        max_macs=max_macs, verify=verify, dry_run=dry_run, save_plan=save_plan, report=report, seed=seed, threads=threads,
        runtime=runtime, device=device, **more,
    )  # fmt: skip
    with _samples(data=(data, labels), eval_data=(eval_data, eval_labels)) as paths:
        return _report(reports.PruneReport, [], [model], "--json", {**options, **paths})


def inspect(
    *models: StrPath,
    why: Optional[str] = None,
    summary: bool = False,
    target_macs: Optional[float] = None,
    threads: Optional[int] = None,
    **more: Flag,
) -> reports.InspectReport:
    """What is in models, which channels can go, and what holds the others back.

    ``why`` follows the channels of one node, of one model. ``summary`` prunes each model (or each in a folder) in memory to
    ``target_macs`` and compares it with the masked original.
    """
    if why is not None and len(models) != 1:
        raise TypeError(f"why is about a node of one model, and {len(models)} are given")
    options: dict[str, Any] = dict(why=why, summary=summary, target_macs=target_macs, threads=threads, **more)
    return _report(reports.InspectReport, ["inspect"], models, "--format=json", options)


def diff(
    original: StrPath,
    pruned: StrPath,
    *,
    data: Optional[Data] = None,
    labels: Optional[Array] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    metric: Union[str, Sequence[str], None] = None,
    max_drop: Optional[float] = None,
    min_agreement: Optional[float] = None,
    layer_samples: Optional[int] = None,
    report: Union[StrPath, Sequence[StrPath], None] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    runtime: Optional[str] = None,
    **more: Flag,
) -> reports.DiffReport:
    """Compares accuracy and outputs of two models on the same samples, and says whether a drop is noise.

    Raises ``GateError`` (with the report) where ``max_drop``, in points, or ``min_agreement``, a share, is broken.
    """
    options: dict[str, Any] = dict(
        samples=samples, mean=mean, std=std, metric=metric, max_drop=max_drop, min_agreement=min_agreement,
        layer_samples=layer_samples, report=report, seed=seed, threads=threads, runtime=runtime, **more,
    )  # fmt: skip
    with _samples(data=(data, labels)) as paths:
        return _report(reports.DiffReport, ["diff"], [original, pruned], "--json", {**options, **paths})


def bench(
    *models: StrPath,
    batch: Union[int, Sequence[int], None] = None,
    threads: Union[int, Sequence[int], None] = None,
    runs: Optional[int] = None,
    min_time: Optional[float] = None,
    warmup: Optional[float] = None,
    data: Optional[Data] = None,
    max_ratio: Optional[float] = None,
    min_speedup: Optional[float] = None,
    precision: Optional[str] = None,
    profile: bool = False,
    memory: bool = True,
    report: Optional[StrPath] = None,
    seed: Optional[int] = None,
    runtime: Optional[str] = None,
    device: Optional[str] = None,
    **more: Flag,
) -> reports.BenchReport:
    """Measures how fast models run on this machine, in turn on the same inputs; the others are compared with the first.

    Raises ``GateError`` (with the report) where a model misses ``max_ratio`` or ``min_speedup``.
    """
    options: dict[str, Any] = dict(
        batch=batch, threads=threads, runs=runs, min_time=min_time, warmup=warmup, max_ratio=max_ratio, min_speedup=min_speedup,
        precision=precision, profile=profile, memory=memory, report=report, seed=seed, runtime=runtime, device=device, **more,
    )  # fmt: skip
    with _samples(data=(data, None)) as paths:
        return _report(reports.BenchReport, ["bench"], models, "--json", {**options, **paths})


def check(
    original: StrPath,
    pruned: StrPath,
    *,
    max_drop: Optional[float] = None,
    min_agreement: Optional[float] = None,
    min_speedup: Optional[float] = None,
    max_ratio: Optional[float] = None,
    max_macs: Optional[float] = None,
    max_params: Optional[float] = None,
    max_size: Optional[float] = None,
    baseline: Optional[StrPath] = None,
    data: Optional[Data] = None,
    labels: Optional[Array] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    report: Union[StrPath, Sequence[StrPath], None] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    runtime: Optional[str] = None,
    device: Optional[str] = None,
    **more: Flag,
) -> reports.CheckReport:
    """Judges a smaller model by at least one limit. Raises ``GateError`` (with the report) where one is broken."""
    options: dict[str, Any] = dict(
        max_drop=max_drop, min_agreement=min_agreement, min_speedup=min_speedup, max_ratio=max_ratio, max_macs=max_macs,
        max_params=max_params, max_size=max_size, baseline=baseline, samples=samples, mean=mean, std=std, report=report, seed=seed,
        threads=threads, runtime=runtime, device=device, **more,
    )  # fmt: skip
    with _samples(data=(data, labels)) as paths:
        return _report(reports.CheckReport, ["check"], [original, pruned], "--json", {**options, **paths})


def train(
    model: StrPath,
    *,
    data: Optional[Data] = None,
    labels: Optional[Array] = None,
    teacher: Optional[StrPath] = None,
    epochs: Optional[int] = None,
    lr: Optional[float] = None,
    batch: Optional[int] = None,
    loss: Union[str, Mapping[str, float], None] = None,
    augment: Union[str, Sequence[str], None] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    output: Optional[StrPath] = None,
    checkpoint: Optional[StrPath] = None,
    report: Union[StrPath, Sequence[StrPath], None] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    runtime: Optional[str] = None,
    device: Optional[str] = None,
    **more: Flag,
) -> reports.TrainReport:
    """Trains a model file: with a ``teacher`` (the original, no labels needed), with labels, or both.

    ``output`` is ``<stem>.trained.onnx`` beside the model by default. Raises ``GateError`` where the training diverges.
    """
    options: dict[str, Any] = dict(
        teacher=teacher, epochs=epochs, lr=lr, batch=batch, loss=loss, augment=augment, samples=samples, mean=mean, std=std,
        output=output, checkpoint=checkpoint, report=report, seed=seed, threads=threads, runtime=runtime, device=device, **more,
    )  # fmt: skip
    with _samples(data=(data, labels)) as paths:
        return _report(reports.TrainReport, ["train"], [model], "--json", {**options, **paths})


def sensitivity(
    model: StrPath,
    *,
    data: Optional[Data] = None,
    labels: Optional[Array] = None,
    eval_data: Optional[Data] = None,
    eval_labels: Optional[Array] = None,
    shares: Union[float, Sequence[float], None] = None,
    removal: Optional[str] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    only: Optional[_Patterns] = None,
    exclude: Optional[_Patterns] = None,
    resume: Optional[StrPath] = None,
    report: Optional[StrPath] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    runtime: Optional[str] = None,
    **more: Flag,
) -> reports.SensitivityReport:
    """Measures what changes when one channel group at a time loses a share of its channels."""
    options: dict[str, Any] = dict(
        shares=shares, removal=removal, samples=samples, mean=mean, std=std, only=only, exclude=exclude, resume=resume,
        report=report, seed=seed, threads=threads, runtime=runtime, **more,
    )  # fmt: skip
    with _samples(data=(data, labels), eval_data=(eval_data, eval_labels)) as paths:
        return _report(reports.SensitivityReport, ["sensitivity"], [model], "--format=json", {**options, **paths})


def data(
    model: StrPath,
    data: Optional[Data] = None,
    *,
    labels: Optional[Array] = None,
    samples: Optional[int] = None,
    mean: Optional[_Numbers] = None,
    std: Optional[_Numbers] = None,
    preprocess: Optional[str] = None,
    **more: Flag,
) -> reports.DataReport:
    """Shows data as the model would get it: shapes, and the values of each channel after preprocessing."""
    options: dict[str, Any] = dict(samples=samples, mean=mean, std=std, preprocess=preprocess, **more)
    with _samples(data=(data, labels)) as paths:
        return _report(reports.DataReport, ["data"], [model], "--format=json", {**options, **paths})


def merge(parts: Sequence[StrPath], *, report: Optional[StrPath] = None, **more: Flag) -> reports.Report:
    """Puts together what ``diff``, ``check``, ``sensitivity`` or ``calibrate`` measured in parts with ``shard="I/N"``."""
    form = "--format=json"
    return _report(reports.Report, ["merge"], parts, form, {"report": report, **more})


def sweep(
    spec: StrPath,
    *,
    store: Optional[StrPath] = None,
    engine: Optional[str] = None,
    jobs: Optional[int] = None,
    memory: Optional[float] = None,
    **more: Flag,
) -> reports.SweepReport:
    """Runs every combination that a SWEEP.toml names, what is in the store aside. The engines ``local`` and ``ray`` give a report."""
    options: dict[str, Any] = dict(store=store, engine=engine, jobs=jobs, memory=memory, **more)
    return _report(reports.SweepReport, ["sweep"], [spec], "--json", options)


def runtimes(**more: Flag) -> list[dict[str, Any]]:
    """What can run models here: ``name, version, library, place, problem, providers`` of each runtime."""
    result = run(["runtimes", "--format=json", *flags(more)])
    error = result.error()
    if error is not None:
        raise error
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def version() -> str:
    """The program's version."""
    return run(["--version"]).stdout.decode().split()[-1]
