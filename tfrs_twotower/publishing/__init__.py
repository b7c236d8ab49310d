"""From trained towers to what is served: models folders, versions, indexes, rules.

`export_retriever` serves a query tower and an index of your own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfrs_twotower.publishing.retriever_export import export_retriever

__all__ = ["export_retriever"]


def __getattr__(name: str) -> Any:
    """Loads TensorFlow when it is needed: reading a models folder does not need it."""
    if name == "export_retriever":
        from tfrs_twotower.publishing.retriever_export import export_retriever

        return export_retriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
