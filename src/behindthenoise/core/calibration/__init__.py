"""Intervals that hold: scores, how they are counted, thresholds with a named guarantee, and the certificate."""
