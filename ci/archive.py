#!/usr/bin/env python3
"""The release archive, the SBOM and the checksums, from a wheel:

    archive.py FOLDER TRIPLE FILE...

FOLDER has the wheel and gets the rest. FILEs go into the archive beside the program, a FOLDER= in front of one says into which folder. Times are SOURCE_DATE_EPOCH, owners root.
The wheel gets that time too, and its SBOM, which as maturin makes it has the time of the build, a random number and the folder of
the checkout, gets the time and loses the others.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import re
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


def moment(epoch):
    """As zip files have it, which know no time before 1980."""
    return time.gmtime(max(epoch, 315532800))[:6]


def zipped(entries, epoch):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name, moment(epoch))
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return raw.getvalue()


def only(found, what):
    if len(found) != 1:
        sys.exit(f"error: expected one {what}, found {len(found)}: {', '.join(map(str, found)) or 'none'}")
    return found[0]


def settle(wheel, epoch):
    """Writes the wheel anew, with nothing of where and when it was made; its program's name and content, and the SBOM."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    names = [info.filename for info, _ in entries]
    program = only([n for n in names if ".data/scripts/" in n], f"program in {wheel}")
    sbom = only([n for n in names if n.endswith(".cyclonedx.json")], f"SBOM in {wheel}")
    record = only([n for n in names if n.endswith(".dist-info/RECORD")], f"RECORD in {wheel}")
    found = dict(zip(names, (content for _, content in entries)))
    # The crate of a folder that is called like it is named by the version alone.
    bill = json.loads(re.sub(rf'path\+file://[^"#]*#(?:{NAME}@)?', f"{NAME}@", found[sbom].decode()))
    bill.pop("serialNumber", None)
    bill["metadata"]["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    bill = (json.dumps(bill, indent=2, ensure_ascii=False) + "\n").encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(bill).digest()).rstrip(b"=").decode()
    lines = found[record].decode().splitlines()
    listed = [f"{sbom},sha256={digest},{len(bill)}" if line.startswith(f"{sbom},") else line for line in lines]
    found |= {sbom: bill, record: ("\n".join(listed) + "\n").encode()}
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for info, _ in entries:
            new = zipfile.ZipInfo(info.filename, moment(epoch))
            new.create_system, new.external_attr = info.create_system, info.external_attr
            new.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(new, found[info.filename])
    wheel.write_bytes(raw.getvalue())
    return Path(program).name, found[program], bill


def main():
    out, triple, files = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    wheel = only(sorted(out.glob("*.whl")), f"wheel in {out}")
    version = wheel.name.split("-")[1]
    program, content, bill = settle(wheel, epoch)
    base = f"{NAME}-{version}-{triple}"
    # Which crates are in the program depends on the platform.
    (out / f"{base}.cdx.json").write_bytes(bill)
    entries = [(f"{base}/{program}", content, 0o755)]
    for file in files:
        folder, _, path = file.rpartition("=")
        name = f"{folder}/{Path(path).name}" if folder else path
        entries.append((f"{base}/{name}", Path(path).read_bytes(), 0o644))
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
