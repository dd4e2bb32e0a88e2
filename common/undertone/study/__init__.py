"""From what a person writes to the plan that is signed, approved and charged."""
