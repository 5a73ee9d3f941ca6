"""``shard audit``: identifying values that left the source, patients and pictures that are in two splits."""

from dira_scale.curation.audit.audit import audit

__all__ = ["audit"]
