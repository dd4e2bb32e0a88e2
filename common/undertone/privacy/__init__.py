"""The mechanism: coins, clipping, integers, noise, accounting and the ledger."""
