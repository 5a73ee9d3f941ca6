"""Whole shards on a node's disk, fetched ahead of use from a store, a server or a network disk.

``folder`` is the disk's side, shared by the node's processes; ``shards`` reads samples through it; ``ahead`` fetches
what the next steps need; ``need`` compares an order's demand with the cache's size.
"""
