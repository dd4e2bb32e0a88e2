"""What every method that trains by gradients shares: its options, its row, its server optimisers."""
