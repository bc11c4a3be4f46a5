"""The corpus behind the routes: retrieval's library in the words of service.ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval import ingestion, search
from retrieval.library import Library
from retrieval.reading import CorpusReader
from retrieval.records import CollectionRecord, check_collection_name, check_id
from service.ports import CollectionInfo, Hit, Item, NewItem, Original, Query, SearchResult, Stored


class LibraryCorpus:
    """A picture store on disk; whatever it tells about items has passed the library's disclosure rule."""

    def __init__(self, library: Library) -> None:
        """Use an open library."""
        self.library = library

    def collections(self) -> list[CollectionInfo]:
        """List the collections by name."""
        with self.library.corpus.reading() as reader:
            return [_info(reader, record) for record in reader.collections()]

    def collection(self, name: str) -> CollectionInfo:
        """Describe one collection."""
        with self.library.corpus.reading() as reader:
            return _info(reader, reader.collection(name))

    def create_collection(self, name: str) -> bool:
        """Create a collection; False when it is there already."""
        check_collection_name(name)
        with self.library.corpus.reading() as reader:
            exists = any(record.name == name for record in reader.collections())
        self.library.ingestor.create_collection(name)
        return not exists

    def delete_collection(self, name: str) -> None:
        """Erase a collection with its pictures."""
        self.library.ingestor.delete_collection(name)

    def put(self, collection: str, item: NewItem) -> tuple[Stored, int]:
        """Store a picture, or raise what kept it out.

        Args:
            collection: its name.
            item: the picture.

        Returns:
            Its status and the generation.
        """
        outcome = self.library.ingestor.replace(collection, _new(item))
        return _stored(outcome), self._generation(collection, [outcome])

    def put_many(self, collection: str, items: Sequence[NewItem]) -> tuple[list[Stored], int]:
        """Store pictures.

        Args:
            collection: its name.
            items: the pictures.

        Returns:
            One status per item, and the generation.
        """
        outcomes = self.library.ingestor.replace_batch(collection, [_new(item) for item in items])
        return [_stored(outcome) for outcome in outcomes], self._generation(collection, outcomes)

    def item(self, collection: str, item_id: str) -> Item:
        """Give an item's record."""
        with self.library.corpus.reading() as reader:
            found = reader.item(reader.collection(collection), check_id(item_id))
        return _item(self.library.searcher.describe(found, 0, 0.0))

    def original(self, collection: str, item_id: str) -> Original:
        """Give an item's original, for the anonymizer only; its subject is the payload field `subject`."""
        with self.library.corpus.reading() as reader:
            subject = reader.item(reader.collection(collection), check_id(item_id)).payload.get("subject")
        data = self.library.corpus.picture(collection, item_id)
        return Original(data, subject if isinstance(subject, str) and subject else None, is_stored=True)

    def delete(
        self, collection: str, ids: Sequence[str] | None, condition: Mapping[str, Any] | None
    ) -> tuple[list[str], int]:
        """Erase items.

        Args:
            collection: its name.
            ids: the items, or None.
            condition: a filter, where there are no ids.

        Returns:
            The erased ids and the generation from which on they are invisible.
        """
        if ids is not None:
            outcomes = self.library.ingestor.delete_batch(collection, ids)
        else:
            outcomes = self.library.ingestor.delete_where(collection, condition or {})
        erased = [outcome.id for outcome in outcomes if outcome.status == "deleted"]
        return erased, self._generation(collection, outcomes)

    def compact(self, collection: str) -> bool:
        """Remove the bytes and vectors of erased items; False while a reader still holds the old state."""
        return self.library.ingestor.compact(collection).complete

    def search(self, collection: str, query: Query) -> SearchResult:
        """Rank the items of a collection.

        Args:
            collection: its name.
            query: what to look for.

        Returns:
            The hits.
        """
        found = self.library.searcher.search(
            search.SearchRequest(
                query=_query(query),
                collection=collection,
                top_k=query.top_k,
                offset=query.offset,
                score_threshold=query.score_threshold,
                filter=query.filter,
                exact=query.exact,
                ef=query.ef,
                nprobe=query.nprobe,
            )
        )
        hits = tuple(Hit(_item(hit), hit.score) for hit in found.hits)
        return SearchResult(hits, found.generation, {"embed": found.embed_s, "search": found.search_s})

    def check(self) -> None:
        """Read the list of collections, checksums included."""
        self.collections()

    def close(self) -> None:
        """Write the indexes and close the store."""
        self.library.close()

    def _generation(self, collection: str, outcomes: Sequence[ingestion.ItemOutcome]) -> int:
        known = [outcome.generation for outcome in outcomes if outcome.generation is not None]
        return max(known) if known else self.collection(collection).generation


def _info(reader: CorpusReader, record: CollectionRecord) -> CollectionInfo:
    counts = reader.counts(record)
    return CollectionInfo(
        name=record.name,
        num_items=counts.items,
        num_tombstones=counts.tombstones,
        generation=record.generation,
        dimension=record.text_dim,
    )


def _new(item: NewItem) -> ingestion.NewItem:
    return ingestion.NewItem(item.id, item.data, item.caption or "", item.payload)


def _stored(outcome: ingestion.ItemOutcome) -> Stored:
    status = {"added": "created", "refused": "failed"}.get(outcome.status, "updated")
    return Stored(outcome.id, status, outcome.reason, outcome.image_vector)  # type: ignore[arg-type]  # one of the three


def _item(hit: search.Hit) -> Item:
    return Item(hit.id, hit.caption or None, hit.payload, hit.generation)


def _query(query: Query) -> search.Query:
    if query.text is not None:
        return search.TextQuery(query.text)
    if query.data is not None:
        return search.PictureQuery(query.data)
    if query.item_id is not None:
        return search.ItemQuery(query.item_id)
    return search.VectorQuery(query.vector or ())
