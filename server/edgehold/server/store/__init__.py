"""What lasts: journal, blobs, sealed spool."""
