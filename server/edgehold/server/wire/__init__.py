"""What arrives and leaves: listeners, the gate, services."""
