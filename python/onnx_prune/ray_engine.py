"""Runs the tasks of a sweep on a Ray cluster: what ``onnx-prune sweep --engine ray`` starts as ``python -m onnx_prune.ray_engine``.

One line of JSON on the standard input says what is to be done (``Order`` in ``src/sweep/engine/ray.rs``). The input stays open
while the sweep wants results; its end before the last task cancels what is left. Each line of the standard output is a JSON object
``{"event": ...}``.

A task is one call of the program on a node, ``onnx-prune sweep --store DIR --task KEY``. Without ``storage``, DIR is the store
itself, on a file system that all nodes share. With ``storage``, an fsspec URL, each node has a store of its own in its folder for
temporary files, gets what a task reads from the URL and puts its result there::

    URL/contents/SHA256  URL/tasks/KEY.json  URL/objects/SHA256/...  URL/results/KEY/...

``finished.json`` is written last: a result without it is not there.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple, Optional

from . import _run

# Ray and fsspec have types for a part of what they offer, and need not be installed: they are loaded as they are needed, untyped.

FINISHED = "finished.json"
#: Seconds between two looks at whether the sweep still wants results.
LOOK = 0.5
#: Bytes of a task's words that are passed on.
SAID = 2000


class Outcome(NamedTuple):
    """What became of a task; small, since Ray carries it."""

    #: ``done``, ``failed`` or ``left``
    state: str
    #: Whether it ran now.
    made: bool = False
    #: Why it failed.
    message: str = ""
    #: The file in which the store keeps that.
    failure: Optional[str] = None


def tell(event: str, **values: Any) -> None:
    """One line for the program that waits for it."""
    print(json.dumps({"event": event, **values}), flush=True)


class Remote:
    """The shared place, by fsspec."""

    def __init__(self, url: str) -> None:
        fsspec: Any = importlib.import_module("fsspec")
        self.fs, self.root = fsspec.core.url_to_fs(url.rstrip("/"))

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(f"{self.root}/{name}"))

    def put(self, source: Path, name: str) -> None:
        """A file, which appears under its name when all of it is there, on file systems that can rename."""
        path = f"{self.root}/{name}"
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        partial = f"{path}.{os.getpid()}.{threading.get_ident()}.part"
        self.fs.put_file(str(source), partial)
        self.fs.mv(partial, path)

    def get(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")
        self.fs.get_file(f"{self.root}/{name}", str(partial))
        partial.replace(target)

    def names(self, folder: str) -> list[str]:
        """Files directly in a folder."""
        found = self.fs.ls(f"{self.root}/{folder}", detail=False)
        return sorted(str(path).rsplit("/", 1)[-1] for path in found if not str(path).endswith(".part"))

    def get_result(self, key: str, store: Path) -> None:
        """A complete result, in one step."""
        place = store / "results" / key
        if (place / FINISHED).exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store) as folder:
            for name in self.names(f"results/{key}"):
                self.get(f"results/{key}/{name}", Path(folder) / key / name)
            try:
                (Path(folder) / key).rename(place)
            except OSError:
                # Another process of this node was faster.
                if not (place / FINISHED).exists():
                    raise

    def put_result(self, key: str, store: Path) -> None:
        place = store / "results" / key
        for path in sorted(place.iterdir(), key=lambda p: p.name == FINISHED):
            self.put(path, f"results/{key}/{path.name}")


def local_store(url: str) -> Path:
    """The store of this node for a URL."""
    ray: Any = importlib.import_module("ray")
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    node = ray.get_runtime_context().get_node_id()[:12]
    return Path(tempfile.gettempdir()) / f"onnx-prune-sweep-{digest}-{node}"


def fetch(remote: Remote, task: dict[str, Any], store: Path) -> None:
    """Brings all that a task reads."""
    remote.get(f"tasks/{task['key']}.json", store / "tasks" / f"{task['key']}.json")
    for sha256 in task["reads"]:
        remote.get(f"contents/{sha256}", store / "contents" / sha256)
        content = json.loads((store / "contents" / sha256).read_text())
        place = store / "objects" / sha256
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store) as folder:
            for part in content["files"]:
                path = Path(folder) / sha256 / part["name"]
                remote.get(f"objects/{sha256}/{part['name']}", path)
                # By its size and time the program knows it again, and need not read all of it for that.
                os.utime(path, ns=(part["modified"], part["modified"]))
            try:
                (Path(folder) / sha256).rename(place)
            except OSError:
                if not place.exists():
                    raise
    for key in task["needs"]:
        remote.get_result(key, store)


def work(options: dict[str, Any], store_dir: str, task: dict[str, Any], *needed: Outcome) -> Outcome:
    """Runs one task on a node."""
    if any(outcome.state != "done" for outcome in needed):
        return Outcome("left")
    key = task["key"]
    storage = options["storage"]
    remote = Remote(storage) if storage else None
    store = local_store(storage) if storage else Path(store_dir)
    if remote is not None:
        if remote.exists(f"results/{key}/{FINISHED}"):
            return Outcome("done")
        fetch(remote, task, store)
    result = store / "results" / key / FINISHED
    before = result.exists()
    program = options["program"] or str(_run.find_program())
    threads = max(1, int(options["num_cpus"]))
    command = [program, "sweep", "--store", str(store), "--task", key, "--threads", str(threads)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_run.environment()
        )
    except OSError as error:
        return Outcome("failed", message=f"{program} does not run: {error}")
    with process:
        _, stderr = _run._wait(process)
    if process.returncode == 0 and result.exists():
        if remote is not None:
            remote.put_result(key, store)
        return Outcome("done", made=not before)
    said = stderr.decode("utf-8", "replace").strip()[-SAID:] or f"{program} ended with code {process.returncode}"
    failure = store / "failures" / f"{key}.json"
    return Outcome("failed", message=said, failure=failure.read_text() if failure.exists() else None)


def upload(remote: Remote, store: Path, tasks: list[dict[str, Any]]) -> None:
    """Puts what the tasks read where nodes find it; what is there stays."""
    put: set[str] = set()
    for task in tasks:
        key = task["key"]
        if not remote.exists(f"tasks/{key}.json"):
            remote.put(store / "tasks" / f"{key}.json", f"tasks/{key}.json")
        if (store / "results" / key / FINISHED).exists() and not remote.exists(f"results/{key}/{FINISHED}"):
            remote.put_result(key, store)
        for sha256 in set(task["reads"]) - put:
            put.add(sha256)
            remote.put(store / "contents" / sha256, f"contents/{sha256}")
            content = json.loads((store / "contents" / sha256).read_text())
            for part in content["files"]:
                name = f"objects/{sha256}/{part['name']}"
                if not remote.exists(name):
                    remote.put(Path(content["dir"]) / part["name"], name)


def ask(task: dict[str, Any], options: dict[str, Any], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What a task asks of a node. No more than the smallest node has, so that each can take it: one that takes times asks for all
    cores of such a node, and so is alone there."""
    cpus = options["num_cpus"]
    if task["exclusive"]:
        cpus = max(cpus, min((node["Resources"].get("CPU", 0.0) for node in nodes), default=cpus))
    most = min((node["Resources"].get("memory", 0.0) for node in nodes), default=0.0)
    asked: dict[str, Any] = {"num_cpus": cpus, "max_retries": options["retries"], "scheduling_strategy": "SPREAD"}
    if options["num_gpus"]:
        asked["num_gpus"] = options["num_gpus"]
    if most > 0:
        asked["memory"] = int(min(task["memory"], most))
    return asked


def drive(order: dict[str, Any], cancelled: threading.Event) -> None:
    """Gives all tasks to the cluster, and tells of each when it has ended."""
    ray: Any = importlib.import_module("ray")
    options, store = order["options"], Path(order["store"])
    if options["storage"]:
        upload(Remote(options["storage"]), store, order["tasks"])
    ray.init(address=options["address"], log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
    tell("connected", nodes=len(nodes), cpus=cpus)
    remote_work = ray.remote(work)
    references: dict[str, Any] = {}
    keys: dict[Any, str] = {}
    for task in order["tasks"]:
        needed = [references[key] for key in task["needs"]]
        asked = ask(task, options, nodes)
        name = f"onnx-prune: {task['label']}"
        reference = remote_work.options(name=name, **asked).remote(options, str(store), task, *needed)
        references[task["key"]] = reference
        keys[reference] = task["key"]
    waiting = list(keys)
    while waiting and not cancelled.is_set():
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK)
        for reference in ended:
            key = keys[reference]
            try:
                outcome = ray.get(reference)
            except Exception as error:
                # The node was lost more often than a task is tried again, or what runs tasks there failed.
                outcome = Outcome("failed", message=f"{type(error).__name__}: {error}")
            settle(outcome, key, options, store)
    for reference in waiting:
        ray.cancel(reference)
        tell("left", key=keys[reference])
    if waiting:
        # Programs on the nodes get the time to end.
        ray.wait(waiting, num_returns=len(waiting), timeout=10.0)
    ray.shutdown()


def settle(outcome: Outcome, key: str, options: dict[str, Any], store: Path) -> None:
    """Brings a result home and tells of it."""
    if outcome.state == "done":
        if options["storage"]:
            Remote(options["storage"]).get_result(key, store)
        tell("done", key=key, made=outcome.made)
    elif outcome.state == "failed":
        if options["storage"]:
            failure = outcome.failure or json.dumps(
                {"key": key, "exit_code": None, "message": outcome.message, "command": "on a node of the Ray cluster"}
            )
            (store / "failures" / f"{key}.json").write_text(failure)
        tell("failed", key=key, message=outcome.message)
    else:
        tell("left", key=key)


def main() -> int:
    """Reads the order; the exit code."""
    order = json.loads(sys.stdin.readline())
    cancelled = threading.Event()

    def watch() -> None:
        # Nothing more comes; the end does.
        sys.stdin.read()
        cancelled.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        drive(order, cancelled)
    except ImportError as error:
        print(f"error: {error}: pip install 'onnx-prune[ray]' brings what is missing", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        print(f"error: Ray: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
