"""Choose what the page of clusters shows: which nodes of a tree, which members, and what is known of each."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.evidence.intervals import clopper_pearson
from clustering.trees.tree import ClusterTree
from sync.report.render_clusters import Cluster, Purity, Section, Thumbnail

__all__ = ["Limits", "Members", "label_section"]

Ints = npt.NDArray[np.int64]
_NEARLY_ALL = 0.95
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a tree is shown: at most ``clusters`` nodes of at least ``least`` members, each with
    ``pictures`` members."""

    clusters: int = 120
    least: int = 8
    pictures: int = 8


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """What is known of the n instances of a label.

    Attributes
    ----------
    prior : (n,) floating
    verdict : (n,) int8, +1 accepted, -1 rejected, 0 open
    verified : (n,) bool, decided by a verdict of its own
    answered : (n,) bool, somebody answered about it
    yes : (n,) floating in 0..1, probability that the verdict is yes (where answered)
    """

    prior: npt.NDArray[np.float32]
    verdict: npt.NDArray[np.int8]
    verified: npt.NDArray[np.bool_]
    answered: npt.NDArray[np.bool_]
    yes: npt.NDArray[np.float32]


def label_section(
    label: str,
    tree: ClusterTree,
    members: Members,
    *,
    decided: dict[int, Purity],
    sets: Sequence[Purity] = (),
    picture: Callable[[int], bytes],
    caption: Callable[[int], str],
    limits: Limits = Limits(),
) -> Section:
    """The tree of one label, cut down to what a person can look at.

    ``decided`` holds the purity of nodes that a test decided, ``sets`` that of sets accepted together;
    ``picture`` gives the JPEG of an instance (empty when it cannot be shown), ``caption`` its text.
    """
    accepted, rejected = members.verdict > 0, members.verdict < 0
    totals = {
        "size": len(tree),
        "accepted": int(accepted.sum()),
        "rejected": int(rejected.sum()),
        "asked": int(members.answered.sum()),
    }
    if not len(tree):
        return Section(label, root=None, sets=tuple(sets), **totals)
    counts = tree.sums(
        np.stack(
            [
                accepted,
                rejected,
                members.answered,
                np.where(members.answered, members.yes, 0.0),
                members.prior,
            ],
            axis=1,
        )
    )
    lower, upper = clopper_pearson(np.round(counts[:, 3]), counts[:, 2], alpha=(1.0 - _LEVEL) / 2.0)
    children = _shown(tree, decided, limits)
    height = tree.node_height()

    def thumbnail(row: int) -> Thumbnail:
        return Thumbnail(
            jpeg=picture(row),
            caption=caption(row),
            score=float(members.prior[row]),
            verdict=int(members.verdict[row]),
            verified=bool(members.verified[row]),
            asked=bool(members.answered[row]),
            yes=float(members.yes[row]) if members.answered[row] else 0.0,
        )

    built: dict[int, Cluster] = {}
    for node in _children_first(tree.root, children):
        size, (a, r, asked, yes, prior) = int(tree.size[node]), counts[node]
        purity = decided.get(node)
        if purity is None and asked:
            purity = Purity(float(lower[node]), float(upper[node]), _LEVEL, int(asked), float(yes))
        below = tuple(built.pop(child) for child in children.get(node, ()))
        built[node] = Cluster(
            node=node,
            size=size,
            state=_state(size, int(a), int(r), int(asked)),
            accepted=int(a),
            rejected=int(r),
            asked=int(asked),
            prior=float(prior) / size,
            height=float(height[node]),
            purity=purity,
            thumbnails=tuple(thumbnail(row) for row in _faces(tree, node, members, limits.pictures)),
            children=below,
            left_out=size - sum(child.size for child in below) if below else 0,
        )
    return Section(label, root=built[tree.root], sets=tuple(sets), **totals)


def _shown(tree: ClusterTree, decided: dict[int, Purity], limits: Limits) -> dict[int, tuple[int, ...]]:
    """The shown children of every shown node.

    First come the paths from the root to the largest decided clusters, then the largest other clusters.
    """
    wanted: set[int] = set()
    for one in sorted(decided, key=lambda node: -int(tree.size[node])):
        way = {one, *tree.ancestors(one).tolist()}
        if len(wanted | way) > limits.clusters:
            break
        wanted |= way
    children: dict[int, tuple[int, ...]] = {}
    queue = [(int(tree.root not in wanted), -int(tree.size[tree.root]), tree.root)]
    shown = 1
    while queue:
        urgent, _, node = heapq.heappop(queue)
        if urgent and shown + 2 > limits.clusters:
            break
        parts = _fork(tree, node, limits.least, wanted)
        if not parts:
            continue
        children[node] = parts
        shown += len(parts)
        for part in parts:
            heapq.heappush(queue, (int(part not in wanted), -int(tree.size[part]), part))
    return children


def _fork(tree: ClusterTree, node: int, least: int, wanted: set[int]) -> tuple[int, ...]:
    """The next division below a node into two clusters of at least ``least`` members.

    Divisions that only split off a few members are skipped.
    """
    while (pair := tree.children(node)) is not None:
        kept = tuple(child for child in pair if tree.size[child] >= least or child in wanted)
        if len(kept) == 2 or any(child in wanted for child in kept):
            return tuple(sorted(kept, key=lambda child: -int(tree.size[child])))
        if not kept:
            return ()
        node = kept[0]
    return ()


def _children_first(root: int, children: dict[int, tuple[int, ...]]) -> Iterator[int]:
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(children.get(node, ()))
    return reversed(order)


def _state(size: int, accepted: int, rejected: int, asked: int) -> str:
    if accepted >= _NEARLY_ALL * size:
        return "accepted"
    if rejected >= _NEARLY_ALL * size:
        return "rejected"
    if accepted + rejected > asked:
        return "partly"
    return "asked" if asked else "undecided"


def _faces(tree: ClusterTree, node: int, members: Members, count: int) -> list[int]:
    """Members to show: at most half were asked about, the rest run from best to worst prior."""
    rows = tree.members(node)
    ranked = rows[np.argsort(-members.prior[rows], kind="stable")]
    asked = ranked[members.answered[ranked]]
    asked = asked[_evenly(len(asked), count // 2)]
    others = ranked[~np.isin(ranked, asked)]
    others = others[_evenly(len(others), count - len(asked))]
    chosen = np.concatenate([asked, others])
    return [int(row) for row in chosen[np.argsort(-members.prior[chosen], kind="stable")]]


def _evenly(length: int, count: int) -> Ints:
    if length <= count:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.int64))
