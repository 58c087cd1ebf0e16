"""A sweep on a real Ray cluster of two nodes, separate processes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

from onnx_prune import _run

HAS_RAY = importlib.util.find_spec("ray") is not None
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
#: 8 rows: 8 plans (l1 and l2 at four budgets), 8 cuts, 8 measurements in 2 parts each, which are joined: 40 tasks.
SPEC = """
[[model]]
path = "residual.bn.onnx"
test = "fashion_test.npz"
[grid]
target-macs = [0.8, 0.7, 0.6, 0.5]
criterion = ["l1", "l2"]
recover = ["bias"]
[plan]
steps = 1
[measure]
shard-samples = 250
diff = { layer-samples = 0 }
"""
TASKS = 40


def rows(store: Path) -> list[dict[str, str]]:
    with (store / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@unittest.skipIf(not HAS_RAY, "Ray is not installed: pip install 'onnx-prune[ray]'")
class OnRay(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="onnx-prune-ray-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        for name in ["residual.bn.onnx", "fashion_test.npz"]:
            shutil.copy(FIXTURES / name, self.dir)
        (self.dir / "sweep.toml").write_text(SPEC)
        self.program = str(_run.find_program())
        self.environment = {**_run.environment(), "ONNX_PRUNE_PYTHON": sys.executable}
        subprocess.run(
            [self.program, "sweep", "sweep.toml", "--store", "alone", "-q"],
            cwd=self.dir, env=self.environment, check=True,
        )
        listed = json.loads(subprocess.check_output(
            [self.program, "sweep", "sweep.toml", "--dry-run", "--json"], cwd=self.dir, env=self.environment,
        ))
        self.assertEqual(len(listed), TASKS)
        # What nodes keep of a URL's files goes with the rest.
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(self.dir)
        self.addCleanup(lambda: os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before))
        # The driver's node has no cores: all work is on the two others.
        cluster: Any = importlib.import_module("ray.cluster_utils")
        self.cluster = cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.addCleanup(self.cluster.shutdown)
        self.nodes = [self.cluster.add_node(num_cpus=1, wait=True) for _ in range(2)]

    def sweep(self, store: str, *more: str) -> subprocess.Popen[str]:
        command = [self.program, "sweep", "sweep.toml", "--store", store, "--engine", "ray",
                   "--address", self.cluster.address, *more]
        return subprocess.Popen(
            command, cwd=self.dir, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, store: str, results: int, process: subprocess.Popen[str]) -> None:
        place = self.dir / store / "results"
        while not place.exists() or len(list(place.iterdir())) < results:
            self.assertIsNone(process.poll(), "the sweep ended before it could be disturbed")
            time.sleep(0.02)

    def check(self, store: str, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate(timeout=600)
        self.assertEqual(process.returncode, 0, errors)
        done = [line for line in errors.splitlines() if line.endswith(": done")]
        # Each ended, and is told of once.
        self.assertEqual(len(set(done)), TASKS, errors)
        self.assertEqual(len(done), TASKS, errors)
        self.assertEqual(len(list((self.dir / store / "results").iterdir())), TASKS)
        self.assertEqual(rows(self.dir / store), rows(self.dir / "alone"))
        self.assertEqual((self.dir / store / "results.csv").read_bytes(), (self.dir / "alone" / "results.csv").read_bytes())

    def test_a_lost_node_loses_nothing(self) -> None:
        process = self.sweep("shared")
        self.wait_for("shared", 12, process)
        self.cluster.remove_node(self.nodes[1], allow_graceful=False)
        self.check("shared", process)

    def test_through_a_url(self) -> None:
        url = f"file://{self.dir}/bucket"
        process = self.sweep("far", "--storage", url)
        self.wait_for("far", 12, process)
        self.cluster.remove_node(self.nodes[1], allow_graceful=False)
        self.check("far", process)
        self.assertEqual(len(list((self.dir / "bucket" / "results").iterdir())), TASKS)

    def test_a_signal_cancels_what_is_left(self) -> None:
        process = self.sweep("cut")
        self.wait_for("cut", 6, process)
        process.terminate()
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        time.sleep(2.0)
        there = len(list((self.dir / "cut" / "results").iterdir()))
        self.assertLess(there, TASKS)
        time.sleep(3.0)
        # Nothing works on.
        self.assertEqual(len(list((self.dir / "cut" / "results").iterdir())), there)
        self.check_rest("cut")

    def check_rest(self, store: str) -> None:
        again = self.sweep(store)
        _, errors = again.communicate(timeout=600)
        self.assertEqual(again.returncode, 0, errors)
        self.assertEqual((self.dir / store / "results.csv").read_bytes(), (self.dir / "alone" / "results.csv").read_bytes())


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    unittest.main()
