"""Masked sums: random groups of devices whose integer vectors can only be read added up. Pure: no sockets, clocks, files.

What is and is not hidden stands in docs/masks.md, how a daemon drives the two machines in README.md beside this file. The
protocol is that of Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (signed keys,
double masks, consistent set of survivors), over small complete groups.
"""
