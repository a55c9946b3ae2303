"""Reconstructing what a device trained on from what it sent. These attacks read only what the server may record."""
