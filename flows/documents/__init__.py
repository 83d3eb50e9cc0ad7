"""What ``--json`` prints: one document a command, with a version, whose schema ``gmm-dask schema --output`` prints.

A key keeps its name and its meaning as long as ``schema`` keeps its number; keys may be added. A number that is not
known, or not finite, is null.
"""

from flows.documents.base import Document
from flows.documents.differences import DiffDocument
from flows.documents.errors import ErrorDocument, ErrorKind, ErrorPart
from flows.documents.estimates import EstimateDocument, ScoringDocument, ScoringPart
from flows.documents.groups import GroupScoresDocument, GroupsDocument, GroupsRunDocument
from flows.documents.results import ListDocument, ResultDocument, RunDocument
from flows.documents.schemas import DOCUMENTS, document_schema
from flows.documents.scores import ScoreDocument

__all__ = [
    "DOCUMENTS",
    "DiffDocument",
    "Document",
    "ErrorDocument",
    "ErrorKind",
    "ErrorPart",
    "EstimateDocument",
    "GroupScoresDocument",
    "GroupsDocument",
    "GroupsRunDocument",
    "ListDocument",
    "ResultDocument",
    "RunDocument",
    "ScoreDocument",
    "ScoringDocument",
    "ScoringPart",
    "document_schema",
]
