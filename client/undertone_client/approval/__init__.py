"""Plans that ask, and plans that a person has approved."""
