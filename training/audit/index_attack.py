"""Attacks on the search index with a photo of a person as the query (A9).

The pictures of some people are ingested into a real store as the service does it, faces blanked. The attacker asks with
another photo of a person for that person's picture, and tries to tell from the score of the best hit whether a picture
is in the index at all. A second collection holds the released pictures in place of the originals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.pictures import encode_picture
from retrieval.embedder import Embedder, FaceFinder
from retrieval.errors import PictureRefusedError
from retrieval.ingestion import NewItem
from retrieval.library import Library
from retrieval.search import PictureQuery, SearchRequest
from training.audit.statistics import rate
from training.audit.tables import Table, ranged

Pixels = NDArray[np.uint8]

TOP_K = 5
"""Hits that a query returns."""


def index_attacks(
    indexed: Mapping[str, Sequence[Pixels]],
    queries: Mapping[str, tuple[Sequence[Pixels], Sequence[Pixels]]],
    embedder: Embedder,
    detector: FaceFinder,
    folder: Path,
) -> Table:
    """Ingest pictures and query them.

    Args:
        indexed: Name of a collection to its pictures (h, w, 3), one for each of n people in one order.
        queries: What an attacker holds to photos of the n people, and of people who are not in the index.
        embedder: Makes the vectors.
        detector: Finds the faces that are blanked.
        folder: Empty folder of the store.

    Returns:
        One row for each collection and kind of query: precision among the first 1 and 5 hits (there is one right
        picture), how often it is among them, chance, and how well the best score tells members from others.
    """
    table: Table = []
    with Library(folder, embedder, detector) as library:
        for number, (name, pictures) in enumerate(indexed.items()):
            collection = f"audited-{number}"
            library.ingestor.create_collection(collection)
            items = [NewItem(f"p{index}", encode_picture(pixels, "png")) for index, pixels in enumerate(pictures)]
            library.ingestor.add_batch(collection, items)
            for kind, (members, strangers) in queries.items():
                answers = [_ask(library, collection, pixels) for pixels in members]
                ranks = np.array(
                    [ids.index(f"p{i}") if f"p{i}" in ids else TOP_K for i, (ids, _) in enumerate(answers)],
                    dtype=np.int64,
                )
                scores = np.array([score for _, score in answers])
                others = np.array([_ask(library, collection, pixels)[1] for pixels in strangers])
                table.append(_row(name, kind, ranks, len(pictures)) | _membership(scores, others))
    return table


def _row(name: str, kind: str, ranks: NDArray[np.int64], size: int) -> dict[str, object]:
    first, among = rate(ranks == 0), rate(ranks < TOP_K)
    return {
        "index of": name,
        "query": kind,
        "pictures": size,
        "precision@1": ranged(first),
        f"precision@{TOP_K}": round(among.value / TOP_K, 3),
        f"found among {TOP_K}": ranged(among),
        "chance@1": round(1 / max(1, size), 4),
        f"chance among {TOP_K}": round(min(1.0, TOP_K / max(1, size)), 4),
    }


def _membership(members: NDArray[np.float64], strangers: NDArray[np.float64]) -> dict[str, object]:
    """F1 of calling a query a member by its best score, the threshold learned on the other half of the queries."""
    if len(members) < 2 or len(strangers) < 2:
        return {}
    scores = np.concatenate([members, strangers])
    truth = np.repeat([True, False], [len(members), len(strangers)])
    half = np.concatenate([np.arange(len(members)), np.arange(len(strangers))]) % 2 == 0
    called = np.zeros(len(scores), dtype=np.bool_)
    for part in (half, ~half):
        levels = np.unique(scores[~part])
        values = [_f1(scores[~part] >= level, truth[~part]) for level in levels]
        called[part] = scores[part] >= levels[int(np.argmax(values))]
    u = stats.mannwhitneyu(members, strangers).statistic
    return {
        "membership F1": round(_f1(called, truth), 3),
        "F1 of always yes": round(_f1(np.ones_like(truth), truth), 3),
        "membership AUC": round(float(u) / (len(members) * len(strangers)), 3),
    }


def _f1(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * float((called & truth).sum()) / max(1.0, float(called.sum() + truth.sum()))


def _ask(library: Library, collection: str, pixels: Pixels) -> tuple[list[str], float]:
    """Ids of the hits, best first, and the best score; none for a query that the index refuses."""
    query = PictureQuery(encode_picture(pixels, "png"))
    try:
        hits = library.searcher.search(SearchRequest(query, collection=collection, top_k=TOP_K)).hits
    except PictureRefusedError:
        return [], -1.0
    return [hit.id for hit in hits], hits[0].score if hits else -1.0
