"""Judges what the store holds, draws it and renders it: the one reader of the evidence."""
