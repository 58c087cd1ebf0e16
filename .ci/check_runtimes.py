#!/usr/bin/env python3
"""Does every command that runs models come to the same verdict on both runtimes?

    check_runtimes.py ONNX-PRUNE ORT-LIBRARY [FOLDER]

Each case runs twice, with --runtime tract and with --runtime ort, in a folder of its own. Exit codes have to be equal, what is
decided from data (removed channels, groups) too, and figures within the tolerances below. Times are not compared, only that both
runtimes have some and name themselves. Needs nothing but Python.
"""
import json, math, os, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "fixtures")
DATA = ["--data", "d.npz", "--mean", "0.2860", "--std", "0.3530"]
FIGURES = 1e-3  # shares and figures of quality
FREE = {"runtime", "version", "tool", "path", "timings_ms", "notes", "sha256", "bytes"}  # may differ
failures = []


def fail(message):
    failures.append(message)
    print(f"FAIL {message}")


def run(tool, flags, folder, args):
    done = subprocess.run([tool, *args, *flags], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def close(a, b, tolerance):
    """Relative to numbers above 1. None stands for a number that is not finite."""
    if a is None or b is None: return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def differences(a, b, tolerance, at=""):
    """Where two JSON documents differ, but for the keys that may."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys(): yield f"{at}: keys {sorted(a)} and {sorted(b)}"
        for key in a.keys() & b.keys() - FREE:
            yield from differences(a[key], b[key], tolerance, f"{at}/{key}")
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b): yield f"{at}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b)): yield from differences(x, y, tolerance, f"{at}/{i}")
    elif isinstance(a, bool) or isinstance(b, bool) or isinstance(a, str) or isinstance(b, str):
        if a != b: yield f"{at}: {a!r} and {b!r}"
    elif not close(a, b, tolerance): yield f"{at}: {a} and {b}"


def pick(document, *keys): return {k: document[k] for k in keys}


# What is compared of each command's report.
def pruned(d): return {"accuracy": d["accuracy"], "groups": d["groups"], "macs": d["pruned"]["macs"], "params": d["pruned"]["params"]}
def accuracy(d): return {**pick(d, "samples", "primary", "accuracy", "per_class"), "gates": gates(d), "pairs": pick(d, "changed")}
def gates(d): return [pick(g, "name", "limit", "value", "passed") for g in d["gates"]]
def curves(d): return pick(d, "removal", "calibration_samples", "metric", "samples", "original", "groups")
def check(d): return {"passed": d["passed"], "gates": [pick(g, "name", "limit", "passed") for g in d["gates"]]}


def times(d):
    for row in d["rows"]:
        if not (row["runs"] > 0 and row["median_ms"] > 0): fail(f"bench: no times in {row}")
    return {"models": len(d["models"]), "kept": [g["kept"] for g in d["gates"]]}


FEW = ["--samples", "64", "--eval-samples", "200"]
# name, exit code, arguments, report, what is compared
CASES = [
    ("prune with data", 0, ["net.onnx", "--target-macs", "0.6", "-o", "small.onnx", "--samples", "64", "--save-plan", "plan.json", *DATA], None, None),
    ("prune within a drop", 0, ["net.onnx", "--target-macs", "0.7", "--max-drop", "5", "-o", "held.onnx", *FEW, *DATA], "held.json", pruned),
    ("prune beyond a drop", 1, ["net.onnx", "--target-macs", "0.2", "--recover", "none", "--max-drop", "1", "-o", "bad.onnx", *FEW, *DATA], None, None),
    ("search for a drop", 0, ["net.onnx", "--max-drop", "3", "--recover", "bias", "--criterion", "l2", "-o", "found.onnx", *FEW, *DATA], "found.json", pruned),
    # Times are the machine's; that it comes to an end on both is what is looked at.
    ("prune to a latency", 0, ["net.onnx", "--target-latency", "0.7", "--runs", "20", "--bench-threads", "1", "--latency-cache", "off", "-o", "quick.onnx"], None, None),
    ("sensitivity", 0, ["sensitivity", "net.onnx", "--shares", "0.25,0.5", "--only", "body", "--metric", "top1", *FEW, *DATA], "curves.json", curves),
    ("diff within limits", 0, ["diff", "net.onnx", "fixed.onnx", "--max-drop", "30", "--min-agreement", "0.5", "--layer-samples", "0", *DATA], "diff.json", accuracy),
    ("diff beyond them", 1, ["diff", "net.onnx", "poor.onnx", "--max-drop", "1", "--layer-samples", "0", *DATA], "far.json", accuracy),
    ("bench", 0, ["bench", "net.onnx", "fixed.onnx", "--runs", "20", "--warmup", "0.1", "--threads", "1", "--no-memory", "--max-ratio", "50"], "bench.json", times),
    ("bench beyond a limit", 1, ["bench", "net.onnx", "fixed.onnx", "--runs", "20", "--warmup", "0.1", "--threads", "1", "--no-memory", "--min-speedup", "50"], "slow.json", times),
    ("check within limits", 0, ["check", "net.onnx", "fixed.onnx", "--max-macs", "0.85", "--max-drop", "30", "--max-ratio", "50", "--runs", "20", "--bench-threads", "1", *DATA], "check.json", check),
    ("check beyond them", 1, ["check", "net.onnx", "poor.onnx", "--max-macs", "0.7", "--max-drop", "1", *DATA], "broken.json", check),
]


def load(path):
    with open(path) as f: return json.load(f)


def plans(a, b):
    """Equal cuts; equally many where scores from data lie so close that rounding decides."""
    if differing := list(differences(load(a)["groups"], load(b)["groups"], 0)):
        sizes = [[(g["name"], g["channels_after"]) for g in load(p)["groups"]] for p in (a, b)]
        if sizes[0] != sizes[1]: fail(f"prune with data: other channels are removed: {differing[0]}")
        removed = [{(g["name"], c) for g in load(p)["groups"] for c in g["removed"]} for p in (a, b)]
        shared = len(removed[0] & removed[1]) / max(1, len(removed[0]))
        if shared < 0.95: fail(f"prune with data: only {shared:.0%} of the removed channels are the same")
        print(f"  {shared:.1%} of the removed channels are the same")


def main():
    tool, library = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    root = sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp()
    flags = {"tract": ["--runtime", "tract"], "onnxruntime": ["--runtime", "ort", "--ort-lib", library]}
    folders = {}
    for name in flags:
        folders[name] = folder = os.path.join(root, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for source, target in (("residual.bn.onnx", "net.onnx"), ("fashion_test.npz", "d.npz")):
            shutil.copy(os.path.join(FIXTURES, source), os.path.join(folder, target))
        for target, share, recover in (("fixed.onnx", "0.8", "bias"), ("poor.onnx", "0.3", "none")):
            code, said = run(tool, [], folder, ["-q", "net.onnx", "--target-macs", share, "--recover", recover, "-o", target])
            if code: sys.exit(f"FAIL {target}: {said}")
    for name, expected, args, report, part in CASES:
        found = {}
        for runtime, folder in folders.items():
            more = ["--report", report] if report else []
            code, said = run(tool, flags[runtime], folder, [*args, *more])
            if code != expected: fail(f"{name} on {runtime}: exit code {code} instead of {expected}: {said.strip()[-400:]}")
            elif report: found[runtime] = load(os.path.join(folder, report))
        if len(found) == 2:
            for runtime, document in found.items():
                used = document.get("runtime")
                used = used["name"] if isinstance(used, dict) else used
                if used not in (None, runtime): fail(f"{name}: {used} ran the models instead of {runtime}")
            a, b = (part(found[r]) for r in flags)
            for line in list(differences(a, b, FIGURES))[:5]: fail(f"{name}: tract and onnxruntime: {line}")
        print(f"{name}: exit code {expected} on both" if not failures else f"{name}: done")
        if name == "prune with data": plans(*(os.path.join(f, "plan.json") for f in folders.values()))
    # A comparison that finds nothing different in other documents would be none.
    document = load(os.path.join(folders["tract"], "diff.json"))
    other = json.loads(json.dumps(document))
    other["accuracy"]["top1"]["pruned"] += 0.01
    other["gates"][0]["passed"] ^= True
    if len(list(differences(accuracy(document), accuracy(other), FIGURES))) != 2: fail("the comparison does not see a difference")
    if failures: sys.exit(f"{len(failures)} differences")
    print(f"OK {len(CASES)} cases on both runtimes")


if __name__ == "__main__":
    main()
