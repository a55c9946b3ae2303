"""How a run is driven: who is asked, what is admitted, when a round closes."""
