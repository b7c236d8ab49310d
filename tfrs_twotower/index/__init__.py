"""Search for the best candidates of a query embedding, exact or approximate."""
