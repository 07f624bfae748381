"""The documentation builds as a site, and every link of it and of the README leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def test_site_builds_strictly(tmp_path):
    """Strict: a broken link or anchor, a page outside the navigation and an unknown name in the API are errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, encoding="utf-8", capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "CAFRNet" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/README.md"])
def test_links_outside_the_site(page):
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing
