"""The documentation as web pages: built as `make site` does, complete, nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from tests.docs.pages import NAMES, ROOT

sys.path.insert(0, str(ROOT / "docs"))
from docstrings import as_numpydoc
from site_hooks import PAGES, address_problem, site_links


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    silent = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=silent)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Page(HTMLParser):
    """What a built page refers to: ids on it, links, and files that a browser fetches with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        got = {name: value or "" for name, value in attrs}
        self.ids |= {got[name] for name in ("id", "name") if name in got}
        if tag == "a" and "href" in got:
            self.links.add(got["href"])
        elif tag == "link" and got.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.add(got.get("href", ""))
        elif "src" in got:
            self.fetched.add(got["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_link_and_anchor_is_there(site: Path, pages: dict[Path, Page]) -> None:
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or path.name == "404.html":
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and unquote(anchor) not in pages[target].ids):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == []


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    elsewhere = {
        address for page in pages.values() for address in page.fetched if "//" in address
    }  # data: has none
    assert elsewhere == set()
    styles = {path: path.read_text() for path in site.rglob("*.css")}
    assert [
        path for path, text in styles.items() if re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text)
    ] == []


def test_addresses_elsewhere_are_listed(site: Path) -> None:
    listed = (site / "external-links.txt").read_text().splitlines()
    assert listed == sorted(set(listed))
    assert all(address.startswith("https://") for address in listed)
    assert "https://keepachangelog.com/en/1.1.0/" in listed  # stands in the changelog


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("https://example.org/a#b", ""),
        ("http://example.org", "is not https"),
        ("https://localhost/a", "names no host"),
        ("https://example.org/a).", "has a character too many"),
    ],
)
def test_the_form_of_an_address(address: str, problem: str) -> None:
    assert address_problem(address) == problem


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, where a function is named; the function itself does not matter here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def nav_files(entry: Any = CONFIG["nav"]) -> Iterator[str]:
    match entry:
        case str():
            yield entry
        case list():
            for child in entry:
                yield from nav_files(child)
        case dict():
            for child in entry.values():
                yield from nav_files(child)


def test_every_page_has_its_place_in_the_navigation() -> None:
    there = [PAGES.get(name) or name.removeprefix("docs/") for name in (*NAMES, "CHANGELOG.md")]
    assert sorted(nav_files()) == sorted(there), "name the page under `nav` in mkdocs.yml"


def test_the_reference_holds_what_its_pages_are_for(site: Path, pages: dict[Path, Page]) -> None:
    """One of each page, so that a module that griffe cannot read is noticed."""
    for page, name in {
        "projects": "sync.projects.init_project.init_project",
        "exchange": "sync.exchange.export.export_project",
        "kinds": "ml_backend.kinds.base.ProjectKind",
        "learners": "ml_backend.learners.base.Learner",
        "clicks": "ml_backend.clicks.base.ClickSegmenter",
        "clustering": "clustering.answers.SearchPolicy",
    }.items():
        assert name in pages[site / "reference" / f"{page}.html"].ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("See [there](other.md#two).", ""),
        ("See [there](gone.md).", "gone.md"),
        ("See [there](other.md#three).", "three"),
        ("![picture](gone.png)", "gone.png"),
        ("See [there](/other.md).", "absolute"),
    ],
)
def test_a_broken_link_stops_the_build(tmp_path: Path, text: str, said: str) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "index.md").write_text(f"# One\n\n{text}\n")
    (folder / "other.md").write_text("# Other\n\n## Two\n")
    own = {"docs_dir": str(folder), "plugins": [], "hooks": [], "nav": None}
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\n{yaml.safe_dump(own)}")
    done = build(config, tmp_path / "site")
    assert (done.returncode == 0) == (said == ""), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](docs/cli.md#x)", "README.md", "index.md", "[a](cli.md#x)"),
        ("![a](docs/click.png)", "README.md", "index.md", "![a](click.png)"),
        ("[a](../CONTRIBUTING.md)", "docs/cli.md", "cli.md", "[a](contributing.md)"),
        (
            "[a](../../README.md#start)",
            "docs/reference/index.md",
            "reference/index.md",
            "[a](../index.md#start)",
        ),
        ("[`a`](../clustering/costs.py)", "docs/cli.md", "cli.md", "`a`"),
        ("[a](#b) [c](https://d.org)", "docs/cli.md", "cli.md", "[a](#b) [c](https://d.org)"),
        ("```\n[a](../LICENSE)\n```\n", "docs/cli.md", "cli.md", "```\n[a](../LICENSE)\n```\n"),
    ],
)
def test_links_of_the_repository_on_the_site(text: str, source: str, page: str, expected: str) -> None:
    assert site_links(text, source, page) == expected


def test_a_link_out_of_the_pages_must_lead_to_a_file(caplog: pytest.LogCaptureFixture) -> None:
    assert site_links("[a](../gone.py)", "docs/cli.md", "cli.md") == "[a](../gone.py)"
    assert "docs/cli.md: there is no ../gone.py" in caplog.text


def test_meanings_after_names_become_numpydoc() -> None:
    text = "Do.\n\nParameters\n----------\na, b : two\n    lines\nc : one\n\nRaises\n------\nBad : x"
    expected = text.replace("a, b : two", "a, b\n    two").replace("c : one", "c\n    one")
    assert as_numpydoc(text) == expected
