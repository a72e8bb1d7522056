"""What the site needs beyond the pages of docs/: README, CONTRIBUTING and CHANGELOG as pages, and all links.

The pages are written to be read where the code lies. There a link may lead to any file of the repository; on
the site such a link becomes plain text, unless the file is a page too. A file that is not there stops the
build. Addresses elsewhere are checked for their form only, and listed in external-links.txt beside the pages.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.groundswell")  # warnings below "mkdocs" count in a strict build

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "docs"
PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository -> the pages of the site that they are."""
_FENCE = re.compile(r"(^(`{3,}).*?^\2`*[ ]*$)", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"""<a\b[^>]*?\bhref="([a-z]+://[^"]*)""")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with links that hold on the site."""
    name = page.file.src_uri
    source = next((path for path, to in PAGES.items() if to == name), f"{FOLDER}/{name}")
    return site_links(markdown, source, name)


def on_post_build(config: Any, **_: Any) -> None:
    """List the addresses elsewhere that the finished pages lead to; warn about those that cannot be right."""
    site = Path(config.site_dir)
    found: dict[str, str] = {}
    for page in sorted(site.rglob("*.html")):
        for address in _ADDRESS.findall(page.read_text()):
            found.setdefault(html.unescape(address), page.relative_to(site).as_posix())
    for address, first in found.items():
        if problem := address_problem(address):
            log.warning("%s: the address %s %s", first, address, problem)
    (site / "external-links.txt").write_text("".join(f"{address}\n" for address in sorted(found)))


def address_problem(address: str) -> str:
    """What is wrong with the form of an address elsewhere, or nothing. Nothing is fetched."""
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "is not https"
    if "." not in (parts.hostname or ""):
        return "names no host"
    if re.search(r"\s|[.,;:)]$", address):
        return "has a character too many"
    return ""


def site_links(markdown: str, source: str, page: str) -> str:
    """The text of the file ``source`` with links that hold from the site's page ``page``."""
    parts = _FENCE.split(markdown)  # text, block, its ticks, text, …
    for i in range(0, len(parts), 3):
        parts[i] = _LINK.sub(lambda found: _site_link(found, source, page), parts[i])
    return "".join(part for i, part in enumerate(parts) if i % 3 != 2)


def _site_link(found: re.Match[str], source: str, page: str) -> str:
    path, mark, anchor = found["to"].partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return found[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / file).exists():
        log.warning("%s: there is no %s", source, found["to"])
        return found[0]
    target = PAGES.get(file)
    if target is None:
        if not file.startswith(f"{FOLDER}/"):
            return found["text"]
        target = file.removeprefix(f"{FOLDER}/")
    to = posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"{found['image']}[{found['text']}]({to}{mark}{anchor})"
