"""Denoised images with calibrated intervals and label-free tokens, from fast scans and one slow scan."""

__version__ = "0.1.0"
