"""`python -m mochi_codegen sync|verify`: write, or compare, everything that is made from the types."""

from __future__ import annotations

import sys
from pathlib import Path

from mochi_codegen import generated

USAGE = "usage: python -m mochi_codegen sync|verify [PROJECT_FOLDER]\n"


def main(arguments: list[str]) -> int:
    """Return 0 when the files agree with the types (after `sync` they always do), 1 when they differ, 2 for bad usage."""
    if not arguments or arguments[0] not in ("sync", "verify") or len(arguments) > 2:
        sys.stderr.write(USAGE)
        return 2
    root = Path(arguments[1]) if len(arguments) == 2 else Path.cwd()
    stale = [path for path, text in generated.files().items() if _text(root / path) != text]
    if arguments[0] == "verify":
        for path in stale:
            sys.stderr.write(
                f"{path} differs from the types in crds/mochi_api: run `make sync` and commit the result\n"
            )
        return 1 if stale else 0
    for path in stale:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(generated.files()[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
