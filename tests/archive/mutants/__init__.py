"""Files of every kind that the converter takes, and what accident or malice makes of them. Seeded: the same each time.

``valid`` has small good files; ``damage`` spoils any of them; ``liars`` have headers that lie; ``bombs`` are much
larger than they look; ``places`` are odd names, links and what is no file. ``corpus`` has all of these. ``tars`` are
shards that name other places.
"""
