"""How a run is driven: who is here, who is asked, what is admitted, when a round closes."""
