#!/usr/bin/env python3
"""No dependency may ask for a newer Rust than Cargo.toml's rust-version promises.

    check_msrv.py           all that a build of the crate compiles, on any platform
    check_msrv.py --tests   what the tests need as well

Reads `cargo metadata`. Together with Clippy's `incompatible_msrv`, which knows since when each part of the standard library
is there, this is what stands in for a build with the oldest compiler where that is not installed.
"""

import json
import subprocess
import sys


def version(text):
    """(1, 92, 0) of "1.92"."""
    parts = [int(p) for p in text.split("-")[0].split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def main():
    tests = "--tests" in sys.argv[1:]
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed; its own words are above")
    found = json.loads(done.stdout)
    packages = {p["id"]: p for p in found["packages"]}
    nodes = {n["id"]: n for n in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    promised = packages[root]["rust_version"]
    if not promised:
        sys.exit("Cargo.toml: expected a rust-version, found none; state the oldest Rust that builds the crate")

    def wanted(dep, of):
        kinds = {k["kind"] for k in dep["dep_kinds"]}
        return bool(kinds & {None, "build"}) or (tests and of == root)

    reached, todo = {root}, [root]
    while todo:
        of = todo.pop()
        for dep in nodes[of]["deps"]:
            if wanted(dep, of) and dep["pkg"] not in reached:
                reached.add(dep["pkg"])
                todo.append(dep["pkg"])
    stated = [packages[i] for i in reached if packages[i]["rust_version"]]
    newer = [p for p in stated if version(p["rust_version"]) > version(promised)]
    for p in sorted(newer, key=lambda p: p["name"]):
        print(
            f"{p['name']} {p['version']}: needs Rust {p['rust_version']}, Cargo.toml promises {promised}; take an older "
            "version of it, or raise rust-version",
            file=sys.stderr,
        )
    if newer:
        sys.exit(1)
    oldest = max(stated, key=lambda p: version(p["rust_version"]))
    print(
        f"{len(reached)} packages, {len(stated)} with a rust-version, none newer than {promised} "
        f"(the newest: {oldest['rust_version']}, {oldest['name']} {oldest['version']})"
    )


if __name__ == "__main__":
    main()
