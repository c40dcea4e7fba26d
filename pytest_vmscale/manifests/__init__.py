"""Nouns to Kubernetes objects: pure functions, a file per API group. Golden copies of every manifest are in tests/unit/golden."""
