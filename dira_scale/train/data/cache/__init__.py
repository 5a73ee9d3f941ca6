"""Whole shards on a node's disk, fetched ahead of use from a store, a server or a network disk.

``folder`` is the disk's side, shared by the node's processes, ``ages`` its account; ``shards`` and ``storage`` read
samples through it; ``ahead`` fetches what the next steps need, so far as the cache holds it.
"""
