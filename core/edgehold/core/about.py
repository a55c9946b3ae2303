"""Which version this is, in the one place that says so: packaging reads it here."""

VERSION = "0.1.0"
