"""Frozen networks: their architecture, preprocessing and the import of published weights."""
