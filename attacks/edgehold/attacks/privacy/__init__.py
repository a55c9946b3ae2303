"""Attacks on what a release tells about single records: audits that hold a claimed epsilon against what can be guessed."""
