"""The example that crawls documentation, on a wheel that has some in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile

from tests.programs import ROOT, environment

DOCS = ROOT / "examples" / "search_docs"


def run(folder, *arguments):
    command = [sys.executable, "-X", "dev", "-W", "error", str(DOCS.with_suffix(".py")), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    # asyncio's notes of slow steps say how busy the machine is.
    done.stderr = re.sub(r"^Executing <.* took [0-9.]+ seconds\n", "", done.stderr, flags=re.MULTILINE)
    return done


def test_a_wheel(tmp_path):
    """Its documentation is crawled, a page that is not there is counted, and the best page comes first."""
    wheel = tmp_path / "docs.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for page in DOCS.iterdir():
            archive.write(page, f"thing/docs/{page.name}")
        archive.writestr("thing/docs/deeper/index.html", "<title>not this</title>")
    done = run(tmp_path, wheel, "loop", "turns")
    assert (done.stderr, done.returncode) == ("", 0)
    counts, _, words, *found = done.stdout.splitlines()
    assert (counts, words) == ("4 pages, 7 links between them, 1 failed", "loop turns:")
    assert [line.partition(" (")[0].strip() for line in found] == ["The event loop"]
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_wheel_without_documentation(tmp_path):
    """It says so, and what to give instead."""
    wheel = tmp_path / "bare.whl"
    zipfile.ZipFile(wheel, "w").close()
    done = run(tmp_path, wheel)
    assert done.stderr == f"{wheel} has no documentation in it: give a folder with an index.html\n"
    assert done.returncode == 1
