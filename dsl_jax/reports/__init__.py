"""What a run shows: a report of one page, and its pictures."""
