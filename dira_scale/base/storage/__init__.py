"""Local folders and prefixes of object stores, read and written the same way."""
