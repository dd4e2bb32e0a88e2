"""The node as a service: `Node.handle` behind gRPC on a Unix socket, and the client that a relay uses."""
