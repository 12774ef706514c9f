"""Write the pages, and the tables of pages, that come from the code: ``python docs/generate.py``.

``--check`` compares, and says which are out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from docs.generating import commands, errors, extras, plugin, settings, simulator  # noqa: E402

REFERENCE = DOCS / "reference"

#: Pages that are written whole.
PAGES = {
    "settings.md": settings.page,
    "fixtures.md": plugin.fixtures_page,
    "markers.md": plugin.markers_page,
    "hooks.md": plugin.hooks_page,
    "errors.md": errors.page,
    "command-line.md": commands.page,
    "extras.md": extras.page,
}

#: Pages with tables between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
WITH_TABLES = ("mlc_sim.md", "simulator-rules.md")


def out_of_date() -> Iterator[tuple[Path, str]]:
    """Return the pages that are not what the code says, and what they should be."""
    wanted = {REFERENCE / name: page() for name, page in PAGES.items()}
    for name in WITH_TABLES:
        path = REFERENCE / name
        wanted[path] = simulator.with_tables(path.read_text(encoding="utf-8"))
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path, text


def main() -> int:
    """Write the pages, or say which are out of date."""
    found = list(out_of_date())
    if "--check" not in sys.argv:
        for path, text in found:
            path.write_text(text, encoding="utf-8")
        return 0
    for path, _ in found:
        sys.stderr.write(f"{path.name} is out of date: run python docs/generate.py\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
