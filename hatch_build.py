"""The README as PyPI shows it: its links lead to the release in the repository that `[project.urls]` names."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)")


def with_absolute_links(text: str, repository: str, version: str) -> str:
    """Pages for links, files for pictures, by the paths of GitHub, GitLab and Forgejo."""
    return RELATIVE_LINK.sub(
        lambda link: f"{link[1]}{link[2]}({repository.rstrip('/')}/{'raw' if link[1] else 'blob'}/v{version}/", text
    )


class ReadmeHook(MetadataHookInterface):
    """Hatch calls it for every wheel and sdist."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if repository := metadata.get("urls", {}).get("Repository"):
            text = with_absolute_links(text, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
