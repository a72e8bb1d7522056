"""Render the page of clusters: one HTML file from plain values, without network or store."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

__all__ = ["STATES", "Cluster", "Purity", "Section", "Thumbnail", "render_cluster_page"]

STATES = ("accepted", "rejected", "partly", "asked", "undecided")
"""accepted, rejected: nearly all members; partly: some members decided; asked: only answers so far."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One member that is shown.

    ``jpeg`` is empty when the picture cannot be read any more; ``verdict`` +1 accepted, -1 rejected, 0 open;
    ``asked`` says that a person was asked about it and ``yes`` how likely the answers make a yes (0..1).
    """

    jpeg: bytes
    caption: str
    score: float
    verdict: int = 0
    verified: bool = False
    asked: bool = False
    yes: float = 0.0


@dataclass(frozen=True, slots=True)
class Purity:
    """Share of good masks: ``lower``..``upper`` at level ``confidence``, from ``asked`` answers.

    ``test`` names the test that decided; empty when the interval only follows from the answers so far.
    """

    lower: float
    upper: float
    confidence: float
    asked: int
    yes: float
    test: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A node of the tree with its counts. ``left_out`` members are in no shown child."""

    node: int
    size: int
    state: str
    accepted: int
    rejected: int
    asked: int
    prior: float
    height: float
    purity: Purity | None = None
    thumbnails: tuple[Thumbnail, ...] = ()
    children: tuple[Cluster, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """One label: its tree, and the purity of what was accepted together. An empty pool has no ``root``."""

    label: str
    size: int
    accepted: int
    rejected: int
    asked: int
    root: Cluster | None
    sets: tuple[Purity, ...] = field(default=())


def render_cluster_page(sections: Sequence[Section], *, title: str = "Clusters", subtitle: str = "") -> str:
    """The page as a string of HTML that needs nothing else: styles, script and pictures are inside.

    Any text in ``sections`` may come from people; it reaches the page as text only.
    """
    pictures: dict[bytes, int] = {}
    data = {
        "title": title,
        "subtitle": subtitle,
        "sections": [_section(section, pictures) for section in sections],
        "pictures": [],
    }
    data["pictures"] = [base64.b64encode(jpeg).decode() for jpeg in pictures]
    return _environment().get_template("cluster_page.html").render(data=data)


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sync.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # the filter tojson writes "<" as \u003c, so that no label can end the script element
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made


def _section(section: Section, pictures: dict[bytes, int]) -> dict[str, Any]:
    return {
        "label": section.label,
        "size": section.size,
        "accepted": section.accepted,
        "rejected": section.rejected,
        "asked": section.asked,
        "sets": [_purity(one) for one in section.sets],
        "root": None if section.root is None else _cluster(section.root, pictures),
    }


def _cluster(cluster: Cluster, pictures: dict[bytes, int]) -> dict[str, Any]:
    if cluster.state not in STATES:
        raise ValueError(
            f"state {cluster.state!r} of cluster {cluster.node}: expected one of {', '.join(STATES)}"
        )
    return {
        "node": cluster.node,
        "size": cluster.size,
        "state": cluster.state,
        "accepted": cluster.accepted,
        "rejected": cluster.rejected,
        "asked": cluster.asked,
        "prior": round(cluster.prior, 3),
        "height": round(cluster.height, 3),
        "left_out": cluster.left_out,
        "purity": None if cluster.purity is None else _purity(cluster.purity),
        "thumbs": [_thumbnail(one, pictures) for one in cluster.thumbnails],
        "children": [_cluster(child, pictures) for child in cluster.children],
    }


def _purity(purity: Purity) -> dict[str, Any]:
    return {
        "lower": round(purity.lower, 4),
        "upper": round(purity.upper, 4),
        "confidence": round(purity.confidence, 4),
        "asked": purity.asked,
        "yes": round(purity.yes, 2),
        "test": purity.test,
    }


def _thumbnail(thumbnail: Thumbnail, pictures: dict[bytes, int]) -> dict[str, Any]:
    """One thumbnail for the page; a picture that several clusters show is stored once."""
    at = pictures.setdefault(thumbnail.jpeg, len(pictures)) if thumbnail.jpeg else -1
    return {
        "at": at,
        "caption": thumbnail.caption,
        "score": round(thumbnail.score, 3),
        "verdict": thumbnail.verdict,
        "verified": thumbnail.verified,
        "asked": thumbnail.asked,
        "yes": round(thumbnail.yes, 2),
    }
