#!/usr/bin/env python3
"""The release archive, the SBOM and the checksums, from a wheel:

    archive.py FOLDER TRIPLE FILE...

FOLDER has the wheel and gets the rest. FILEs go into the archive beside the program. Times are SOURCE_DATE_EPOCH, owners root.
"""

import gzip
import hashlib
import io
import os
import sys
import tarfile
import time
import zipfile
from pathlib import Path

NAME = "onnx-prune"


def tar(entries, epoch):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content, mode in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), mode, epoch
            info.uname = info.gname = "root"
            archive.addfile(info, io.BytesIO(content))
    packed = io.BytesIO()
    # Neither a name nor a time in the header.
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(raw.getvalue())
    return packed.getvalue()


def zipped(entries, epoch):
    raw = io.BytesIO()
    # A zip file knows no time before 1980.
    when = time.gmtime(max(epoch, 315532800))[:6]
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name, when)
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return raw.getvalue()


def only(found, what):
    if len(found) != 1:
        sys.exit(f"error: expected one {what}, found {len(found)}: {', '.join(map(str, found)) or 'none'}")
    return found[0]


def main():
    out, triple, files = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    wheel = only(sorted(out.glob("*.whl")), f"wheel in {out}")
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        program = only([n for n in names if ".data/scripts/" in n], f"program in {wheel}")
        sbom = only([n for n in names if ".dist-info/sboms/" in n and n.endswith(".cyclonedx.json")], f"SBOM in {wheel}")
        content = archive.read(program)
        (out / f"{NAME}-{version}.cdx.json").write_bytes(archive.read(sbom))
    base = f"{NAME}-{version}-{triple}"
    entries = [(f"{base}/{Path(program).name}", content, 0o755)]
    entries += [(f"{base}/{file}", Path(file).read_bytes(), 0o644) for file in files]
    entries.sort()
    if "windows" in triple:
        (out / f"{base}.zip").write_bytes(zipped(entries, epoch))
    else:
        (out / f"{base}.tar.gz").write_bytes(tar(entries, epoch))
    packed = sorted(p for p in out.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in packed]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
