"""Scale acceptance tests for OpenShift Virtualization, as a pytest plugin."""

__version__ = "0.1.0"
