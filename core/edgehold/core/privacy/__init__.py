"""Differential privacy: what was released (events), its cost (accountants), what may still be spent (filters), the ledger."""
