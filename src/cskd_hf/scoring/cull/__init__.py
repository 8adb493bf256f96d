"""For photographers: near-duplicates, the best of each group, stars, sidecars and a contact sheet of a folder."""
