"""The README on PyPI, where relative links lead nowhere."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADDRESS = "https://example.org/spine"


def test_every_link_is_absolute_and_leads_to_a_file_of_the_release():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    text = hatch_build.with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), f"{ADDRESS}/", "1.2.3")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)#]+)", text)
    assert all(target.startswith("https://") for _, target in links)
    ours = {(bool(picture), *target.split("/v1.2.3/")) for picture, target in links if target.startswith(ADDRESS)}
    assert {kind for _, kind, _ in ours} == {f"{ADDRESS}/blob", f"{ADDRESS}/raw"}
    assert all(picture == kind.endswith("raw") and (ROOT / path).exists() for picture, kind, path in ours)
