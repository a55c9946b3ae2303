"""Matrices of defences against attacks, with controls that always run, and the report on them.

`plan` reads the file, `grid` makes the cells and refuses what cannot be played, `run` plays them, `store` keeps each one as it
finishes, `judge` makes verdicts of what is kept, `page` shows them.
"""
