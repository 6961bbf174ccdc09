"""Titles and descriptions of images: templates and a learned title generator."""
