"""fl-eval: simulations of thousands of virtual clients, and scaled reproductions of methods, bar by bar."""
