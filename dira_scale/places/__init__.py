"""Folders of this machine and prefixes of object stores, read and written the same way."""
