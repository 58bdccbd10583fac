"""Figures and the page, drawn from tables and small arrays alone."""
