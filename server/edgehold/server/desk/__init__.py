"""The operator's side: commands ask, show, check and set up."""
