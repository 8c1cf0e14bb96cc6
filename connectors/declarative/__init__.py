"""Connectors as YAML: one file says how documents become requests to an HTTP API, and what its answers mean.

definition    the file as frozen nouns, its templates compiled
rendering     templates filled in
connector     messages → items → requests, in order
answers       answer → outcome of the whole, or of single items
kind          a definition as a ConnectorKind, with its settings and tests
"""

from connectors.declarative.kind import read_definition

__all__ = ["read_definition"]
