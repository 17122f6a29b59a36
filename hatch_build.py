"""Run by hatchling for each wheel and sdist: the README as an index shows it, and the URLs of the project; and a wheel
that is packed as small as its format allows.

An index has no files of the repository next to the README. Where ATPATCH_REPOSITORY gives the URL of the repository and
ATPATCH_COMMIT the commit, as in the release workflow, links and images lead there. Elsewhere images are left out and
links become plain text, since nothing here invents a URL.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["IndexHook", "PackingHook", "for_index"]

_PAPER = "https://arxiv.org/abs/2601.21695"
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LOCAL = r"(?!\w+:|#)"
_MARKDOWN = re.compile(rf"(!?)\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\({_LOCAL}([^)\s]+)\)")
_HTML = re.compile(rf'\b(src|srcset|href)="{_LOCAL}([^"]+)"')
_PICTURE = re.compile(r"<picture>.*?</picture>\n?|<img [^>]*>\n?", re.DOTALL)


def for_index(text: str, repository: str, commit: str) -> str:
    """Markdown that needs no files next to it; `repository` is "" where there is no URL to lead to."""

    def markdown(found: re.Match[str]) -> str:
        image, words, path = found.groups()
        if not repository:
            return "" if image else words
        return f"{image}[{words}]({repository}/{'raw' if image else 'blob'}/{commit}/{path})"

    def html(found: re.Match[str]) -> str:
        kind = "blob" if found[1] == "href" else "raw"
        return f'{found[1]}="{repository}/{kind}/{commit}/{found[2]}"'

    parts = _FENCED.split(text)
    for place in range(0, len(parts), 2):  # the odd ones are code
        part = _MARKDOWN.sub(markdown, parts[place])
        part = _MARKDOWN.sub(markdown, part)  # the image in a link
        parts[place] = _HTML.sub(html, part) if repository else _PICTURE.sub("", part)
    return "".join(parts)


class IndexHook(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling."""
        repository = os.environ.get("ATPATCH_REPOSITORY", "").rstrip("/")
        commit = os.environ.get("ATPATCH_COMMIT", "HEAD")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository, commit)}
        metadata["urls"] = {"Paper": _PAPER}
        if repository:
            metadata["urls"] |= {
                "Repository": repository,
                "Issues": f"{repository}/issues",
                "Changelog": f"{repository}/blob/{commit}/CHANGELOG.md",
            }


class PackingHook(BuildHookInterface[Any]):
    """Packs a wheel again: hatchling leaves the level of compression at zlib's 6, and 9 saves 9 kB."""

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling when the wheel is written."""
        wheel = Path(artifact_path)
        smaller = wheel.with_name(f"{wheel.name}.tmp")
        with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(smaller, "w") as after:
            for file in before.infolist():
                after.writestr(file, before.read(file), compresslevel=9)
        smaller.replace(wheel)
