"""Keywords become flags, arrays become files."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

from onnx_prune._flags import flags, samples

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]


class Flags(unittest.TestCase):
    def test_names_and_values(self) -> None:
        given = dict(target_macs=0.5, seed=3, in_place=True, dry_run=False, plan=None, output=Path("a b.onnx"))
        self.assertEqual(flags(given), ["--target-macs=0.5", "--seed=3", "--in-place", f"--output={Path('a b.onnx')}"])

    def test_small_numbers_are_numbers(self) -> None:
        (flag,) = flags({"lr": 1e-7})
        self.assertEqual(float(flag.split("=")[1]), 1e-7)

    def test_lists_repeat_or_join(self) -> None:
        self.assertEqual(flags({"exclude": ["^head", "fc"]}), ["--exclude=^head", "--exclude=fc"])
        self.assertEqual(flags({"exclude": []}), [])
        self.assertEqual(flags({"batch": (1, 8)}), ["--batch=1", "--batch=8"])
        self.assertEqual(flags({"mean": [-0.5, 0.4], "std": 0.2}), ["--mean=-0.5,0.4", "--std=0.2"])
        self.assertEqual(flags({"layer_ratio": {"a=b": 0.5, "c": 0.1}}), ["--layer-ratio=a=b=0.5", "--layer-ratio=c=0.1"])
        self.assertEqual(flags({"loss": {"kl": 1, "cosine": 0.5}}), ["--loss=kl=1,cosine=0.5"])

    def test_a_string_is_no_list(self) -> None:
        self.assertEqual(flags({"mean": "1,2", "only": "conv"}), ["--mean=1,2", "--only=conv"])

    def test_what_is_done_unless_told(self) -> None:
        self.assertEqual(flags({"verify": True, "memory": True}), [])
        self.assertEqual(flags({"verify": False, "memory": False}), ["--no-verify", "--no-memory"])

    def test_reserved_words_may_end_with_a_line(self) -> None:
        self.assertEqual(flags({"match_": "x"}), ["--match=x"])

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numbers_of_numpy(self) -> None:
        given = dict(ratio=numpy.float64(0.5), seed=numpy.int64(2), mean=numpy.array([0.5, 0.25]), std=numpy.array(2.0))
        self.assertEqual(flags(given), ["--ratio=0.5", "--seed=2", "--mean=0.5,0.25", "--std=2.0"])


@unittest.skipIf(numpy is None, "numpy is not installed")
class Samples(unittest.TestCase):
    def test_a_path_stays(self) -> None:
        with samples(data=(Path("x.npz"), None), eval_data=(None, None)) as paths:
            self.assertEqual(paths, {"data": "x.npz", "eval_data": None})

    def test_an_array_is_a_file_for_a_while(self) -> None:
        array = numpy.arange(6, dtype="uint8").reshape(2, 3)
        with samples(data=(array, None)) as paths:
            path = paths["data"]
            assert path is not None
            self.assertTrue(path.endswith(".npy"))
            self.assertTrue((numpy.load(path) == array).all())
        self.assertFalse(os.path.exists(path))

    def test_labels_and_names_are_in_one_file(self) -> None:
        array = numpy.zeros((2, 3), "float32")
        for data, name in [(array, "data"), ({"file": array}, "file")]:
            with self.subTest(name=name), samples(data=(data, [1, 0])) as paths:  # type: ignore[arg-type]
                with numpy.load(str(paths["data"])) as stored:
                    self.assertEqual(sorted(stored.files), sorted([name, "labels"]))
                    self.assertEqual(stored["labels"].tolist(), [1, 0])
                    self.assertEqual(stored[name].dtype, array.dtype)

    def test_what_is_no_data(self) -> None:
        for data, labels, says in [(3, None, "expected a path"), ("x.npz", [1], "labels go with arrays")]:
            with self.subTest(says=says), self.assertRaisesRegex(TypeError, says):
                with samples(data=(data, labels)):  # type: ignore[arg-type]
                    self.fail("no error")

    def test_objects_are_not_pickled(self) -> None:
        with self.assertRaises(ValueError), samples(data=(numpy.array([{}]), None)):
            self.fail("no error")


if __name__ == "__main__":
    unittest.main()
