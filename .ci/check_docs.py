#!/usr/bin/env python3
"""Runs every command of the pages in docs/, and follows their links: check_docs.py [--bin DIR] [--html DIR] [PAGE...]

Each page has a folder of its own with model.onnx, folded.onnx, fashion.npz and onnx-prune.toml from fixtures/. Its blocks mean

    ```sh                  commands that have to succeed, one after the other
    ```sh exit=1           … the last of which ends with that exit code
    ```sh skip=REASON      … that are not run here
    ```text                what the block of sh before it prints: the same lines in the same order, where a line of … stands for
                           any number of them. Times, versions and the width of columns are not compared.
    ```text figures=any    … and no other figure either (what runs models rounds differently elsewhere)
    ```text figures=own    … and no line with a figure: their number and words depend on the machine, too
    ```toml                a file, if the first line is a comment that begins with its name: # sweep.toml

--bin is the folder of the program (default target/release). --html is a folder that `cargo doc` wrote: links of the guide's
pages have to lead somewhere there, too. --write makes docs/*.svg.uri anew, the pictures as rustdoc has them.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, unquote

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FILES = {"model.onnx": "residual.bn.onnx", "folded.onnx": "residual.folded.onnx", "fashion.npz": "fashion_test.npz",
         "onnx-prune.toml": "onnx-prune.toml"}  # fmt: skip
# Pages whose blocks are Python: the step `install` runs them with the installed wheel (.ci/check_blocks.py).
ELSEWHERE = {"python.md"}
LANGUAGES = {"sh", "text", "toml", "yaml", "json", "python", "rust"}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
LIMIT = 120  # seconds for one command


class Wrong(Exception):
    pass


def commands(code):
    """Lines, put together where a command goes on."""
    held = ""
    for line in code.splitlines():
        held += line + "\n"
        complete = subprocess.run(["bash", "-n", "-c", held], capture_output=True).returncode == 0
        if complete and not line.endswith("\\"):
            if held.strip():
                yield held.strip()
            held = ""
    if held.strip():
        raise Wrong(f"not a whole command: {held}")


def masked(line, figures):
    line = re.sub(r"(?<![\w.])[\d.]+(e-?\d+)? ?(ns|µs|ms|s|min)\b", "TIME", line)
    line = re.sub(r"\b(tract|onnxruntime) [\d.]+", r"\1 VERSION", line)
    line = re.sub(r"\b\d+-bit float|\bload [\d.]+", "LOAD", line)
    if figures:
        line = re.sub(r"(?<![\w/_.])[+-]?\d[\d.,]*(e-?\d+)?", "N", line)
    return " ".join(re.sub("─+", "─", line).split())


def compare(shown, real, figures):
    """Every shown line appears, in this order; without a line of dots between them they follow each other."""
    def clean(text):
        lines = [m for m in (masked(line, bool(figures)) for line in text.splitlines()) if m]
        return lines if figures != "own" else [line for line in lines if not re.search(r"\bN\b", line)]

    shown, real, at, anywhere = clean(shown), clean(real), 0, True
    for line in shown:
        if line == "…":
            anywhere = True
            continue
        found = next((i for i in range(at, len(real)) if real[i] == line), None)
        if found is None or (found > at and not anywhere):
            near = "\n".join(real[at : at + 6])
            raise Wrong(f"the page shows\n  {line}\nbut after what came before, the program printed\n{near}")
        at, anywhere = found + 1, figures == "own"


def execute(command, folder, env):
    """Exit code and all that was printed; what does not end in time is ended with all its children."""
    process = subprocess.Popen(["bash", "-uc", command], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Wrong(f"{command}\nran for more than {LIMIT} s") from None
    return process.returncode, printed


def run_page(page, folder, env):
    text, last, counts = page.read_text(encoding="utf-8"), None, {"run": 0, "skipped": 0, "compared": 0}
    for block in BLOCK.finditer(text):
        info, code = block[1].strip(), block[2]
        language, _, rest = info.partition(" ")
        line = text.count("\n", 0, block.start()) + 1
        try:
            if language not in LANGUAGES:
                raise Wrong(f"a block of {language or 'no language'}; expected one of {', '.join(sorted(LANGUAGES))}")
            if language == "sh" and rest.startswith("skip="):
                counts["skipped"] += len(list(commands(code)))
                print(f"  {page.name}:{line}: skipped, {rest.removeprefix('skip=')}")
                last = None
            elif language == "sh":
                wanted = int(rest.removeprefix("exit=") or 0)
                todo, last = list(commands(code)), ""
                for i, command in enumerate(todo):
                    status, printed = execute(command, folder, env)
                    last += printed
                    expected = wanted if i == len(todo) - 1 else 0
                    if status != expected:
                        raise Wrong(f"{command}\nexit code {status}, expected {expected}; it printed\n{printed[-2000:]}")
                    counts["run"] += 1
            elif language == "text" and last is not None:
                compare(code, last, rest.removeprefix("figures="))
                counts["compared"] += 1
                last = None
            elif language == "toml":
                name = re.match(r"# ([\w.-]+\.toml)\b", code)
                if name:
                    (folder / name[1]).write_text(code, encoding="utf-8")
        except (Wrong, ValueError) as error:
            raise Wrong(f"{page.relative_to(ROOT)}:{line}: {error}") from None
    return counts


def anchors(text):
    """What GitHub and rustdoc both call the headings."""
    text = BLOCK.sub("", text)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def check_links(page):
    """Links into the repository exist. Pages of the guide are linked by reference, so that rustdoc can lead them to modules."""
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))
    targets = re.findall(r"\]\(([^)\s]+)\)", bare)
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", bare, re.M))
    for target in targets:
        if page.parent == DOCS and not re.match(r"https?://|#", target):
            raise Wrong(f"{page.name}: link to {target}; expected a reference, [words][name], that src/guide.rs knows")
    for words, name in re.findall(r"\[([^\]]+)\]\[([^\]]*)\]", bare):
        if (name or words) not in named:
            raise Wrong(f"{page.name}: [{words}][{name}] is not defined")
    guide = (ROOT / "src/guide.rs").read_text(encoding="utf-8")
    for target in [*targets, *named.values()]:
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", target):
            continue
        other = (page.parent / path).resolve() if path else page
        if not other.exists():
            raise Wrong(f"{page.name}: there is no {target}")
        if anchor and anchor not in anchors(other.read_text(encoding="utf-8")):
            raise Wrong(f"{page.name}: {other.name} has no heading #{anchor}")
    if page.parent == DOCS:
        for name in named:
            if f"[{name}]: " not in guide and not re.match(r"https?:", named[name]):
                raise Wrong(f"{page.name}: src/guide.rs does not say where [{name}] leads")


def check_html(folder):
    """No link of the guide as rustdoc wrote it leads nowhere."""
    seen = 0
    for page in (folder / "onnx_prune/guide").rglob("*.html"):
        text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            if re.match(r"\w+:|#", target):
                continue
            path = unquote(target.partition("#")[0].partition("?")[0])
            seen += 1
            if not (page.parent / path).resolve().exists():
                raise Wrong(f"{page.relative_to(folder)}: the link {target} leads nowhere")
    if not seen:
        raise Wrong(f"{folder} has no pages of the guide: run cargo doc --no-deps")
    print(f"{seen} links of the guide in {folder} lead somewhere")


def uri(picture):
    return "data:image/svg+xml," + quote(re.sub(r"\s*\n\s*", " ", picture.read_text(encoding="utf-8").strip()), safe="/:=,;'!*")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=Path, default=ROOT / "target/release")
    p.add_argument("--html", type=Path)
    p.add_argument("--write", action="store_true")
    p.add_argument("pages", nargs="*", type=Path)
    a = p.parse_args()
    for picture in sorted(DOCS.glob("*.svg")):
        stored = picture.with_suffix(".svg.uri")
        if a.write:
            stored.write_text(uri(picture), encoding="utf-8")
        elif not stored.exists() or stored.read_text(encoding="utf-8") != uri(picture):
            raise Wrong(f"{stored.relative_to(ROOT)} is not {picture.name}: run .ci/check_docs.py --write")
    pages = [page.resolve() for page in a.pages] or sorted(DOCS.glob("*.md"))
    for page in [ROOT / "README.md", *pages]:
        check_links(page)
    if a.html:
        check_html(a.html)
    if not (a.bin / "onnx-prune").exists():
        raise Wrong(f"there is no {a.bin / 'onnx-prune'}: cargo build --release")
    # What ran models decides figures: the embedded runtime, wherever this runs.
    unset = ("ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "GITHUB_STEP_SUMMARY", "ONNX_PRUNE_LOG", "CLICOLOR_FORCE")
    env = {k: v for k, v in os.environ.items() if k not in unset}
    env["PATH"] = f"{a.bin.resolve()}{os.pathsep}{env['PATH']}"
    total = {}
    for page in pages:
        if page.name in ELSEWHERE:
            print(f"{page.name}: its blocks are run by .ci/check_blocks.py")
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="docs-") as folder:
            env["ONNX_PRUNE_CACHE"] = f"{folder}/latency-cache"
            env["HOME"] = folder
            for name, fixture in FILES.items():
                shutil.copyfile(ROOT / "fixtures" / fixture, Path(folder) / name)
            counts = run_page(page, Path(folder), env)
        print(f"{page.name}: {', '.join(f'{n} {what}' for what, n in counts.items())}  [{time.monotonic() - began:.1f} s]", flush=True)
        total = {what: total.get(what, 0) + n for what, n in counts.items()}
    print(f"{len(pages)} pages: {', '.join(f'{n} {what}' for what, n in total.items())}")


if __name__ == "__main__":
    try:
        main()
    except Wrong as error:
        sys.exit(f"error: {error}")
