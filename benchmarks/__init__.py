"""Measurements of this product, one module each: NAME, SUMMARY and `rows(options)`; `./scripts/bench --list` shows them."""
