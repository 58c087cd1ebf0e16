"""The module against the program, on the repository's fixtures."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

import onnx_prune
from onnx_prune import _run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "residual.bn.onnx"
DATA = FIXTURES / "fashion_test.npz"
# What the networks want, as fixtures/onnx-prune.toml has it, which is not beside copies.
MEAN, STD = 0.286, 0.353


class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def program(self, script: str) -> None:
        """Has a script stand for the program."""
        path = self.folder / "program"
        path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{script}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        patch = mock.patch.dict(os.environ, {_run.VARIABLE: str(path)})
        patch.start()
        self.addCleanup(patch.stop)


class Commands(Case):
    def test_prune_then_everything(self) -> None:
        out = self.folder / "small.onnx"
        report = onnx_prune.prune(MODEL, ratio=0.4, data=DATA, samples=64, output=out, seed=0, threads=1)
        self.assertEqual(report.path, out)
        self.assertEqual(report.bytes_after, out.stat().st_size)
        self.assertEqual(report.max_rel_diff, 0.0)
        self.assertLess(report.macs_after, report.macs_before)
        self.assertLess(report.params_after, report.params_before)
        self.assertEqual(report.macs_ratio, report.macs_after / report.macs_before)
        self.assertIn("small.onnx", repr(report))
        self.assertIsNone(report.passed)

        inspected = onnx_prune.inspect(MODEL, out)
        self.assertEqual([m["macs"] for m in inspected.models], [report.macs_before, report.macs_after])
        self.assertEqual(inspected.macs, report.macs_before)

        diff = onnx_prune.diff(MODEL, out, data=DATA, samples=100, layer_samples=0)
        self.assertEqual((diff.metric, diff.samples), ("top1", 100))
        assert diff.drop is not None and diff.accuracy_before is not None and diff.accuracy_after is not None
        self.assertAlmostEqual(diff.drop, 100 * (diff.accuracy_before - diff.accuracy_after))

        bench = onnx_prune.bench(MODEL, out, runs=10, warmup=0, memory=False, runtime="tract", batch=[1, 2])
        self.assertEqual(len(bench.rows), 4)
        self.assertEqual(len(bench.median_ms), 2)
        assert bench.ratio is not None and bench.speedup is not None
        self.assertAlmostEqual(bench.ratio * bench.speedup, 1.0)

        self.assertTrue(onnx_prune.check(MODEL, out, max_macs=1, max_size=1).passed)

    def test_a_broken_limit_has_its_report(self) -> None:
        out = self.folder / "no.onnx"
        with self.assertRaises(onnx_prune.GateError) as caught:
            onnx_prune.prune(MODEL, ratio=0.1, max_macs=0.01, max_params=0.01, output=out)
        error = caught.exception
        self.assertEqual(error.returncode, 1)
        self.assertEqual(len(error.broken), 2)
        self.assertIn("--max-macs 0.01", error.broken[0])
        assert isinstance(error.report, onnx_prune.PruneReport)
        self.assertIs(error.report.passed, False)
        self.assertIsNone(error.report.path)
        self.assertFalse(out.exists())

    def test_a_slow_model_is_named(self) -> None:
        with self.assertRaises(onnx_prune.GateError) as caught:
            onnx_prune.bench(MODEL, MODEL, max_ratio=0.01, runs=10, warmup=0, memory=False, runtime="tract")
        self.assertIn("--max-ratio 0.01", caught.exception.broken[0])

    def test_bad_input_is_told(self) -> None:
        for given, says in [
            ({"ratio": 0.4, "no_such_flag": 1}, "--no-such-flag"),
            ({}, "no budget"),
            ({"ratio": 2}, "2"),
        ]:
            with self.subTest(given=given), self.assertRaisesRegex(onnx_prune.UsageError, says) as caught:
                onnx_prune.prune(MODEL, **given)  # type: ignore[arg-type]
            self.assertEqual(caught.exception.returncode, 2)
            self.assertNotIn("Usage:", str(caught.exception))
        with self.assertRaisesRegex(onnx_prune.UsageError, "no such file"):
            onnx_prune.inspect(self.folder / "none.onnx")
        with self.assertRaisesRegex(TypeError, "json"):
            onnx_prune.inspect(MODEL, json=True)

    def test_arrays_are_as_good_as_files(self) -> None:
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is not installed")
        with numpy.load(DATA) as stored:
            images, labels = stored["input"], stored["labels"]
        by_file = onnx_prune.diff(MODEL, FIXTURES / "residual.folded.onnx", data=DATA, layer_samples=0)
        for data in (images, {"input": images}):
            by_array = onnx_prune.diff(
                MODEL, FIXTURES / "residual.folded.onnx", data=data, labels=labels, layer_samples=0, mean=MEAN, std=STD
            )
            self.assertEqual(by_array.accuracy, by_file.accuracy)
        shown = onnx_prune.data(MODEL, images[:7], mean=MEAN, std=STD)
        self.assertEqual(shown.samples, 7)

    def test_training_and_sensitivity(self) -> None:
        out = self.folder / "trained.onnx"
        trained = onnx_prune.train(MODEL, teacher=MODEL, data=DATA, samples=64, epochs=1, lr=1e-5, output=out)
        self.assertEqual(trained.path, out)
        self.assertEqual(len(trained.epochs), 1)
        curves = onnx_prune.sensitivity(MODEL, data=DATA, samples=64, shares=[0.5], only="^/3/", runtime="tract")
        self.assertTrue(curves.groups and all(len(g["points"]) == 1 for g in curves.groups))

    def test_the_program_is_a_module_too(self) -> None:
        run = subprocess.run([sys.executable, "-m", "onnx_prune", "--version"], capture_output=True, text=True, check=True)
        self.assertEqual(run.stdout.split(), ["onnx-prune", onnx_prune.version()])
        bad = subprocess.run([sys.executable, "-m", "onnx_prune", "inspect", "none"], capture_output=True, check=False)
        self.assertEqual(bad.returncode, 2)

    def test_runtimes_are_listed(self) -> None:
        self.assertIn("tract", [runtime["name"] for runtime in onnx_prune.runtimes()])


@unittest.skipUnless(os.name == "posix", "scripts that are programs")
class Ends(Case):
    """How a program can end, told by scripts that end so."""

    def test_interrupted(self) -> None:
        self.program("sys.exit(130)")
        with self.assertRaises(KeyboardInterrupt) as caught:
            onnx_prune.inspect("m.onnx")
        self.assertIsInstance(caught.exception, onnx_prune.Interrupted)

    def test_killed(self) -> None:
        self.program("os.kill(os.getpid(), signal.SIGKILL)")
        with self.assertRaisesRegex(onnx_prune.OnnxPruneError, "signal 9") as caught:
            onnx_prune.inspect("m.onnx")
        self.assertEqual(caught.exception.returncode, -9)

    def test_no_json(self) -> None:
        for script, says in [("print('hello')", "expected a JSON object"), ("pass", "found nothing"), ("print('[1]')", "object")]:
            with self.subTest(script=script):
                self.program(script)
                with self.assertRaisesRegex(onnx_prune.OnnxPruneError, says):
                    onnx_prune.inspect("m.onnx")

    def test_warnings_are_kept(self) -> None:
        self.program("print('{}'); print('warning: slow', file=sys.stderr)")
        self.assertEqual(onnx_prune.inspect("m.onnx").warnings, ("slow",))

    def test_interrupting_lets_it_finish(self) -> None:
        done = self.folder / "done"
        begun = self.folder / "begun"
        self.program(
            f"def end(*_):\n    time.sleep(0.2); open({str(done)!r}, 'w').close(); sys.exit(130)\n"
            f"signal.signal(signal.SIGTERM, end); open({str(begun)!r}, 'w').close(); time.sleep(60)"
        )

        def interrupt() -> None:
            while not begun.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with self.assertRaises(KeyboardInterrupt):
            onnx_prune.inspect("m.onnx")
        self.assertTrue(done.exists())

    def test_a_program_that_is_not_there(self) -> None:
        with mock.patch.dict(os.environ, {_run.VARIABLE: str(self.folder / "none")}):
            with self.assertRaisesRegex(onnx_prune.ProgramNotFoundError, _run.VARIABLE):
                onnx_prune.version()

    def test_the_runtime_of_this_python_is_looked_at(self) -> None:
        with mock.patch.dict(os.environ, {"VIRTUAL_ENV": "/mine"}):
            self.assertEqual(_run.environment()["VIRTUAL_ENV"], "/mine")
            del os.environ["VIRTUAL_ENV"]
            os.environ.pop("CONDA_PREFIX", None)
            self.assertEqual(_run.environment()["VIRTUAL_ENV"], sys.prefix)

    def test_libraries_for_graphics_cards_are_on_the_path(self) -> None:
        library = self.folder / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
        library.parent.mkdir(parents=True)
        library.touch()
        with mock.patch("sysconfig.get_path", return_value=str(self.folder)), mock.patch("sys.platform", "linux"):
            with mock.patch.dict(os.environ, {"LD_LIBRARY_PATH": "/mine"}):
                self.assertEqual(_run.environment()["LD_LIBRARY_PATH"], f"/mine:{library.parent}")


if __name__ == "__main__":
    unittest.main()
