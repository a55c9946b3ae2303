"""What lasts: journal, blobs, sealed spool. Uses no other room of the server."""
