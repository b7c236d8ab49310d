"""What a served model computes: the best candidates of a query under the rules of its request."""
