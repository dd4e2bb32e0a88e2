"""Between Flower's SuperNode and the node: one long-lived process that carries messages and computes nothing."""
