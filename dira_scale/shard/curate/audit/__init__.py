"""``shard audit``: identifying values from the source in the dataset; patients and images in two splits."""

from dira_scale.shard.curate.audit.make import audit

__all__ = ["audit"]
