#!/usr/bin/env python3
"""Checks what ci/package made: check_package.py FOLDER

The checksums are those of the files and leave none out; wheel, source, crate and archive have what they must have and nothing that
they must not; the wheel's program and the archive's are the same; the SBOM names what the program is built from, as Cargo.lock has it.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

MODULE = ["__init__", "__main__", "_commands", "_errors", "_flags", "_reports", "_run", "ray_engine"]
# What cannot be missing in the SBOM of a program that reads ONNX and verifies.
NAMED = ["tract-onnx", "prost", "onnx-prune"]
CRATE = 4_000_000


def need(condition, words):
    if not condition:
        sys.exit(f"error: {words}")


def one(folder, pattern):
    found = sorted(folder.glob(pattern))
    need(len(found) == 1, f"{folder}: expected one {pattern}, found {[p.name for p in found]}")
    return found[0]


def members(path):
    """From names to contents; the folder that an archive has everything in is left out."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    else:
        with tarfile.open(path) as archive:
            found = {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    return found if path.suffix == ".whl" else {name.split("/", 1)[1]: text for name, text in found.items()}


def has(path, found, *names):
    missing = [name for name in names if name not in found]
    need(not missing, f"{path.name}: expected {', '.join(missing)}, found {', '.join(sorted(found)[:40])}")


def sums(folder):
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    there = {p.name for p in folder.iterdir() if p.name != "SHA256SUMS"}
    need(set(listed) == there, f"SHA256SUMS: expected {sorted(there)}, found {sorted(listed)}")
    for name, digest in listed.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        need(found == digest, f"{name}: expected SHA-256 {digest}, found {found}")
    return len(listed)


def bill(path):
    """Name and version of each component."""
    text = path.read_text(encoding="utf-8")
    need("file:///" not in text, f"{path.name}: names a folder of this machine")
    sbom = json.loads(text)
    need(sbom.get("bomFormat") == "CycloneDX", f"{path.name}: bomFormat is {sbom.get('bomFormat')!r}, expected CycloneDX")
    components = [*sbom["components"], sbom["metadata"]["component"]]
    return {(c["name"], c["version"]) for c in components}


def main():
    folder = Path(sys.argv[1])
    count = sums(folder)
    wheel = one(folder, "*.whl")
    version = wheel.name.split("-")[1]
    inside = members(wheel)
    info = f"onnx_prune-{version}.dist-info"
    has(wheel, inside, "onnx_prune/py.typed", *(f"onnx_prune/{name}.py" for name in MODULE), f"{info}/METADATA", f"{info}/RECORD")
    metadata = inside[f"{info}/METADATA"].decode()
    for extra in ("ort", "gpu", "ray"):
        need(re.search(rf"^Provides-Extra: {extra}$", metadata, re.M), f"{wheel.name}: no extra {extra}")
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    need(not needed, f"{wheel.name}: expected no package that is always needed, found {needed}")
    programs = [name for name in inside if ".data/scripts/" in name]
    need(len(programs) == 1, f"{wheel.name}: expected one program, found {programs}")
    strange = [n for n in inside if not n.startswith(("onnx_prune/", f"{info}/")) and n not in programs]
    need(not strange, f"{wheel.name}: has {strange}")

    for line in inside[f"{info}/RECORD"].decode().splitlines():
        name, digest, size = line.rsplit(",", 2)
        if digest:
            found = base64.urlsafe_b64encode(hashlib.sha256(inside[name]).digest()).rstrip(b"=").decode()
            need(digest == f"sha256={found}" and int(size) == len(inside[name]), f"{wheel.name}: RECORD is wrong about {name}")

    program = Path(programs[0]).name
    archives = [p for p in folder.glob(f"onnx-prune-{version}-*") if p.suffix in (".gz", ".zip")]
    need(len(archives) == 1, f"{folder}: expected one archive of the program, found {len(archives)}")
    archive = archives[0]
    packed = members(archive)
    shell = ["man/onnx-prune.1", "man/onnx-prune-sweep.1", *(f"completions/onnx-prune.{s}" for s in ("bash", "zsh", "fish", "powershell"))]
    has(archive, packed, program, "LICENSE-APACHE", "LICENSE-MIT", "README.md", "CHANGELOG.md", *shell)
    need(packed[program] == inside[programs[0]], f"{archive.name}: another program than the wheel's")
    home = str(Path.home()).encode()
    for place in (str(Path.cwd()).encode(), home + b"/.cargo"):
        need(place not in packed[program], f"{program}: names {place.decode()}, a folder of this machine")

    crate = one(folder, "*.crate")
    # All that compiles: a crate without it builds here, where the file lies, and nowhere else.
    tracked = subprocess.run(["git", "ls-files", "--", "src", "proto", "templates"], capture_output=True, text=True, check=True)
    has(crate, members(crate), *tracked.stdout.split())
    has(crate, members(crate), "Cargo.toml", "Cargo.lock", "src/main.rs", "proto/onnx.proto", "build.rs", "LICENSE-MIT", "LICENSE-APACHE")
    need(crate.stat().st_size < CRATE, f"{crate.name}: {crate.stat().st_size} bytes, expected fewer than {CRATE}")
    source = one(folder, f"onnx_prune-{version}.tar.gz")
    has(source, members(source), "pyproject.toml", "Cargo.toml", "Cargo.lock", "src/main.rs", "python/onnx_prune/py.typed", "PKG-INFO")
    for path in (crate, source):
        more = [n for n in members(path) if n.startswith(("tests/", "fixtures/", "target/", "fuzz/"))]
        need(not more, f"{path.name}: has {more[:3]}")

    components = bill(one(folder, "*.cdx.json"))
    names = {name for name, _ in components}
    need(set(NAMED) <= names, f"SBOM: expected {NAMED}, found {len(names)} others")
    locked = set(re.findall(r'^name = "(.+)"\nversion = "(.+)"', Path("Cargo.lock").read_text(), re.M))
    unknown = sorted(components - locked)
    need(not unknown, f"SBOM: has {unknown[:3]}, which Cargo.lock has not")
    sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in sorted(folder.iterdir()))
    print(f"{count} checksums, {len(components)} components; {sizes}")


if __name__ == "__main__":
    main()
