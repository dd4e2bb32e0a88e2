"""How sites' integer vectors become one opened sum: plain, or under masks (docs/secure-aggregation.md)."""
