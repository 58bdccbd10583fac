"""How good estimates and intervals are."""
