#!/usr/bin/env python3
"""Runs every block of code of a page: check_blocks.py PAGE [LINE-START...]

Blocks of Python run one after the other in one namespace, blocks of `sh` line by line in bash, all in the current folder. Lines of
shell that begin with one of LINE-STARTs are left out (installing what the caller has installed).
"""

import re
import subprocess
import sys
from pathlib import Path


def main():
    page, left_out = Path(sys.argv[1]), tuple(sys.argv[2:])
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "__page__"}
    counts = {}
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        kind, code = block[1], block[2]
        line = text.count("\n", 0, block.start(2))
        if kind == "python":
            # Blank lines before it, so that a traceback has the page's line.
            exec(compile("\n" * line + code, str(page), "exec"), namespace)
        elif kind == "sh":
            for command in filter(None, map(str.strip, code.splitlines())):
                if left_out and command.startswith(left_out):
                    continue
                print(f"+ {command}", flush=True)
                subprocess.run(["bash", "-euc", command], check=True)
        elif kind != "text":
            sys.exit(f"error: {page}:{line}: a block of {kind or 'nothing'}; expected python, sh or text")
        counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        sys.exit(f"error: {page} has no block")
    print(f"{page.name}: {', '.join(f'{n} of {kind}' for kind, n in sorted(counts.items()))}")


if __name__ == "__main__":
    main()
