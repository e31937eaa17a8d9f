"""A list's query in MongoDB's terms. Every list reads one index in its order and sorts nothing."""

from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING

from event.listing import ListQuery, Position

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to find the events of a list."""

    filter: Document
    order: list[tuple[str, int]]
    index: str


def plan(query: ListQuery) -> Plan:
    """Return how to find the events that `query` asks for, from its cursor on.

    The index is named, so that the server never takes one that would make it sort. All other
    filters are checked on what the index yields; how long that may take is bounded by the store.
    """
    field = "created_at" if query.sort == "newest" else "date"
    direction = ASCENDING if query.sort == "date" else DESCENDING
    conditions = _filters(query)
    if query.after is not None:
        conditions.append(_beyond(query.after, field, direction))
    return Plan(
        {"$and": conditions},
        [(field, direction), ("_id", direction)],
        f"{_narrowed_by(query)}_{'newest' if query.sort == 'newest' else 'date'}",
    )


def _narrowed_by(query: ListQuery) -> str:
    """Return the filter that leaves the fewest events, as a rule."""
    if query.organizer is not None:
        return "organizer"
    if query.q is not None:
        return "words"
    if query.location is not None:
        return "location"
    return "all" if query.category is None else "category"


def _filters(query: ListQuery) -> list[Document]:
    conditions: list[Document] = [{"status": query.status}]
    if query.organizer is not None:
        conditions.append({"organizer_id": query.organizer})
    if query.q is not None:
        conditions.append({"search.words": {"$all": query.words}})
    if query.location is not None:
        conditions.append({"search.location": query.location_key})
    if query.category is not None:
        conditions.append({"search.category": query.category_key})
    if query.from_ is not None:
        conditions.append({"date": {"$gte": query.from_}})
    if query.to is not None:
        conditions.append({"date": {"$lt": query.to}})
    return conditions


def _beyond(after: Position, field: str, direction: int) -> Document:
    """Return the condition for what comes after a position.

    The first part bounds the index; the second leaves out what has the same moment and came before.
    """
    further = "$gt" if direction == ASCENDING else "$lt"
    return {
        field: {f"{further}e": after.moment},
        "$or": [
            {field: {further: after.moment}},
            {"_id": {further: ObjectId(after.event_id)}},
        ],
    }
