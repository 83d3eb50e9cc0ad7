"""The schemas of all documents."""

from __future__ import annotations

from typing import Any

from flows.documents.base import Document
from flows.documents.differences import DiffDocument
from flows.documents.errors import ErrorDocument
from flows.documents.estimates import EstimateDocument, ScoringDocument
from flows.documents.groups import GroupScoresDocument, GroupsDocument, GroupsRunDocument
from flows.documents.results import ListDocument, ResultDocument, RunDocument
from flows.documents.scores import ScoreDocument

DOCUMENTS: dict[str, type[Document]] = {
    "run": RunDocument,
    "validate": EstimateDocument,
    "validate-scores": ScoringDocument,
    "show": ResultDocument,
    "score": ScoreDocument,
    "diff": DiffDocument,
    "ls": ListDocument,
    "show-groups": GroupsDocument,
    "run-groups": GroupsRunDocument,
    "score-groups": GroupScoresDocument,
    "error": ErrorDocument,
}


def document_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document by the name of its command, or ``validate-scores`` or ``error``."""
    schema = DOCUMENTS[name].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
