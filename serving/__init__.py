"""The embedded TF Serving-compatible server, and the clients."""
