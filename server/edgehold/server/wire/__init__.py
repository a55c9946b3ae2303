"""What arrives and leaves: listeners, the gate, one module per service."""
